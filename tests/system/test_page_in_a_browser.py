"""The page as people see it, in a real browser: on a desk and a phone, in both languages and themes, and printed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browser import DESKTOP, PHONE, TABLET, chromium, scrolls_sideways, sign_in, violations, window
from constants import API_TOKEN, CALLBACK_TOKEN
from fortnights import loaded
from makers import callback
from questions import STORY
from recount import refresh_all
from running import serving

from webapp.calls.rule import Registration
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

PAGE_TOKEN = "page-token-of-the-tests"
PLANTED = '<script>document.title = "planted"</script><img src=x onerror=\'document.title = "planted"\'>'
PATHS = (
    "/?range=30",
    "/?range=today",
    "/calls",
    "/calls?q=planted",
    "/calls?outcome=answered&key=1&range=7",
    f"/calls/{STORY}",
    "/calls/planted",
)


class Site(NamedTuple):
    """A server with the demo's fortnight, and a browser."""

    url: str
    browser: Browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with chromium() as browser:
        database = loaded(folder, 0.1)
        _plant(Writer(database))
        refresh_all(database)
        database.close()
        environment = {
            "DATABASE_URL": f"sqlite:///{folder}/calls.db",
            "INSTANCE_DIR": str(folder),
            "CALLBACK_TOKEN": CALLBACK_TOKEN,
            "API_TOKEN": API_TOKEN,
            "PAGE_TOKEN": PAGE_TOKEN,
        }
        with serving(folder / "log", "--workers", "1", **environment) as url:
            yield Site(url, browser)


def _plant(writer: Writer) -> None:
    """Store a call that has a script in every field that is text."""
    now = datetime.now(UTC)
    writer.register(
        [Registration(reference_id="planted", request_id=PLANTED, phone=PLANTED, campaign=PLANTED, placed_at=now)], now
    )
    writer.record([callback("planted", call_status=PLANTED, ivr=PLANTED, cid=PLANTED, phone=PLANTED)], now)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("size", "language"), [(DESKTOP, "en"), (TABLET, "vi"), (PHONE, "vi")])
def test_no_page_has_a_violation_an_error_or_a_sideways_scroll(
    site: Site, theme: str, size: tuple[int, int], language: str
) -> None:
    with window(site.browser, size, color_scheme=theme) as page:
        page.goto(f"{site.url}/?lang={language}")
        assert (violations(page), scrolls_sideways(page)) == ([], False)
        sign_in(page, f"{site.url}/?lang={language}", PAGE_TOKEN)
        for path in PATHS:
            page.goto(f"{site.url}{path}")
            assert (violations(page), scrolls_sideways(page)) == ([], False), path
            assert page.locator("html").get_attribute("lang") == language
            assert page.title() != "planted"


def test_signing_in_and_out_by_the_keyboard(site: Site) -> None:
    with window(site.browser) as page:
        page.goto(f"{site.url}/?lang=en")
        page.keyboard.type("a-wrong-token-of-the-tests")
        page.keyboard.press("Enter")
        assert page.get_by_role("alert").inner_text()
        page.locator("input[type=password]").fill(API_TOKEN)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Sign out").click()
        page.goto(f"{site.url}{PATHS[0]}")
        assert page.locator("input[type=password]").count() == 1


def test_the_language_is_kept_from_page_to_page(site: Site) -> None:
    with window(site.browser, locale="en-GB") as page:
        sign_in(page, site.url, PAGE_TOKEN)
        page.get_by_role("link", name="VI", exact=True).click()
        page.goto(f"{site.url}/")
        assert page.get_by_role("button", name="Đăng xuất").count() == 1
        page.get_by_role("link", name="EN", exact=True).click()
        page.goto(f"{site.url}/")
        assert page.get_by_role("button", name="Sign out").count() == 1


def test_printed_pages_have_no_navigation(site: Site) -> None:
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.emulate_media(media="print")
        for path in PATHS:
            page.goto(f"{site.url}{path}")
            assert page.get_by_role("button", name="Sign out").is_hidden()
            assert page.get_by_role("heading", level=1).is_visible()
