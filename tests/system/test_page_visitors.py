"""What visitors of the page meet in a real browser: nothing yet, one call, long names, wrong tokens, and downloads."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browser import PHONE, chromium, scrolls_sideways, sign_in, violations, window
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import callback
from recount import refresh_all
from running import serving

from webapp.calls.rule import Registration
from webapp.storage.database import Database
from webapp.storage.writer import Writer
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

PAGE_TOKEN = "page-token-of-the-tests"
LONG = "Khảo sát mức độ hài lòng của khách hàng tại Thừa Thiên Huế, đợt cuối năm, " * 2
UNBROKEN = "chiến_dịch_không_có_dấu_cách_" * 6
PHONE_NUMBER = "0901888484"


class Site(NamedTuple):
    """A server behind a proxy, its database, and a browser."""

    url: str
    settings: Settings
    browser: Browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("visitors")
    database_url = f"sqlite:///{folder}/calls.db"
    environment = {
        "DATABASE_URL": database_url,
        "INSTANCE_DIR": str(folder),
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "API_TOKEN": API_TOKEN,
        "PAGE_TOKEN": PAGE_TOKEN,
        "TRUSTED_PROXIES": "1",
    }
    with chromium() as browser, serving(folder / "log", "--workers", "1", **environment) as url:
        yield Site(url, Settings(instance_dir=folder, database_url=database_url), browser)


def _place(site: Site, *campaigns: str) -> None:
    """Register and answer a call of each campaign, and count it."""
    now = datetime.now(UTC)
    with closing(Database(site.settings.database, patience=timedelta(seconds=10))) as database:
        writer = Writer(database)
        for name in campaigns:
            call = f"call-{len(name)}"
            writer.register([Registration(reference_id=call, phone=PHONE_NUMBER, campaign=name, placed_at=now)], now)
            writer.record([callback(call, call_status="ANSWERED", call_duration=9, send_status=5)], now)
        refresh_all(database)


def _faults(page: Page) -> tuple[list[str], bool]:
    return violations(page), scrolls_sideways(page)


def test_the_first_call_and_long_names_are_shown_without_a_fault(site: Site) -> None:
    with window(site.browser, PHONE, color_scheme="dark") as page:
        sign_in(page, f"{site.url}/?lang=vi", PAGE_TOKEN)
        assert page.get_by_text("esms-calls callback-url").is_visible()
        assert _faults(page) == ([], False)

        for names, calls in (("một",), "1"), ((LONG.strip(), UNBROKEN), "3"):
            _place(site, *names)
            page.goto(f"{site.url}/?range=today&lang=vi")
            assert page.locator("[data-tile=calls]").inner_text() == calls
            for summary in page.locator("summary").all():
                summary.click()
            assert _faults(page) == ([], False)


def test_every_answer_that_a_browser_gets_is_protected_and_no_script_sees_the_cookies(site: Site) -> None:
    with window(site.browser) as page:
        answers: list[dict[str, str]] = []
        page.on("response", lambda answer: answers.append(answer.headers))
        sign_in(page, f"{site.url}/?lang=en", API_TOKEN)
        page.goto(f"{site.url}/no-such-page")

        assert len(answers) >= 4  # two pages, the style sheet, a script; an icon, where the browser asks for it
        for headers in answers:
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
        cookies = page.context.cookies()
        assert {cookie["name"]: (cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies} == {
            "esms_calls": (True, "Lax"),
            "language": (True, "Lax"),
        }
        assert page.evaluate("document.cookie") == ""
        assert API_TOKEN not in page.content()


def test_the_keyboard_reaches_the_content_first(site: Site) -> None:
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        link = page.get_by_role("link", name="Skip to the content")
        page.goto(f"{site.url}/?lang=en")
        page.keyboard.press("Tab")
        assert link.evaluate("link => link === document.activeElement && link.getBoundingClientRect().top >= 0")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"


def test_a_visitor_who_tries_tokens_waits_and_others_do_not(site: Site) -> None:
    there = {"X-Forwarded-For": "203.0.113.9"}
    with window(site.browser, extra_http_headers=there) as page:
        page.goto(f"{site.url}/?lang=en")
        for _ in range(4):
            page.locator("input[type=password]").fill("a-wrong-token-of-the-tests")
            page.get_by_role("button", name="Sign in").click()
        assert "Too many wrong tokens" in page.get_by_role("alert").inner_text()
        assert _faults(page) == ([], False)
    with window(site.browser, extra_http_headers={"X-Forwarded-For": "203.0.113.10"}) as page:
        sign_in(page, site.url, PAGE_TOKEN)


def test_a_form_that_has_lost_its_session_says_what_to_do(site: Site) -> None:
    with window(site.browser) as page:
        page.goto(f"{site.url}/?lang=en")
        page.context.clear_cookies()
        page.locator("input[type=password]").fill(PAGE_TOKEN)
        page.get_by_role("button", name="Sign in").click()
        assert "load the page and try again" in page.locator("main").inner_text()
        assert _faults(page) == ([], False)


def test_days_and_campaign_are_chosen_by_the_form_and_kept_in_another_language(site: Site) -> None:
    _place(site, "Xác nhận đơn & <b>giao</b>")
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.get_by_role("link", name="7 days").click()
        page.get_by_label("Campaign", exact=True).select_option("Xác nhận đơn & <b>giao</b>")
        page.get_by_role("button", name="Show").click()
        assert page.locator("[data-tile=calls]").inner_text() == "1"
        page.get_by_role("link", name="VI", exact=True).click()
        assert page.locator("h1").inner_text().startswith("Xác nhận đơn & <b>giao</b>")
        assert page.locator("[data-tile=calls]").inner_text() == "1"
        assert page.locator("html").get_attribute("lang") == "vi"


def test_the_campaigns_are_downloaded_as_a_file(site: Site) -> None:
    _place(site, "một")
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en&range=today", PAGE_TOKEN)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download (CSV)").click()
        assert download.value.suggested_filename.startswith("campaigns-")
        assert "một,1," in download.value.path().read_text("utf-8-sig")


def test_a_wrong_date_in_the_address_is_named(site: Site) -> None:
    _place(site, "một")
    with window(site.browser, PHONE) as page:
        sign_in(page, site.url, PAGE_TOKEN)
        page.goto(f"{site.url}/?lang=en&from=2026-13-45")
        assert "2026-13-45" in page.get_by_role("alert").inner_text()
        assert _faults(page) == ([], False)
