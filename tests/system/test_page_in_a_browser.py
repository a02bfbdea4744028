"""The page as people see it, in a real browser: on a desk and a phone, in both languages and themes, and printed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browser import DESKTOP, PHONE, TABLET, chromium, scrolls_sideways, sign_in, violations, window
from constants import API_TOKEN
from fortnights import loaded
from makers import callback
from questions import STORY
from recount import refresh_all
from running import serving, settings_in

from webapp.calls.rule import Registration
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

PAGE_TOKEN = "page-token-of-the-tests"
PLANTED = '<script>document.title = "planted"</script><img src=x onerror=\'document.title = "planted"\'>'
PATHS = (
    "/?range=30",
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
        database = loaded(folder, 0.03)
        _plant(Writer(database))
        refresh_all(database)
        database.close()
        environment = settings_in(folder, PAGE_TOKEN=PAGE_TOKEN)
        with serving(folder / "log", "--workers", "1", **environment) as url:
            yield Site(url, browser)


def _plant(writer: Writer) -> None:
    """Store a call that has a script in every field that is text."""
    now = datetime.now(UTC)
    writer.register(
        [Registration(reference_id="planted", request_id=PLANTED, phone=PLANTED, campaign=PLANTED, placed_at=now)], now
    )
    writer.record([callback("planted", call_status=PLANTED, ivr=PLANTED, cid=PLANTED, phone=PLANTED)], now)
    for second, status in enumerate(("NOANSWERED", "ANSWERED")):
        writer.record([callback("disagreed", second, call_status=status, send_status=5)], now)


@pytest.mark.parametrize(
    ("theme", "size", "language"), [("light", DESKTOP, "en"), ("light", TABLET, "vi"), ("dark", PHONE, "vi")]
)
def test_no_page_has_a_violation_an_error_or_a_sideways_scroll(
    site: Site, theme: str, size: tuple[int, int], language: str
) -> None:
    with window(site.browser, size, color_scheme=theme) as page:
        page.goto(f"{site.url}/?lang={language}")
        assert (violations(page), scrolls_sideways(page)) == ([], False)
        sign_in(page, f"{site.url}/?lang={language}", PAGE_TOKEN)
        for path in PATHS:
            page.goto(f"{site.url}{path}")
            # What axe looks at is the same on a tablet as on a desk.
            assert ([] if size == TABLET else violations(page), scrolls_sideways(page)) == ([], False), path
            assert page.locator("html").get_attribute("lang") == language
            assert page.title() != "planted"


@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_head_of_each_page_is_one_line_on_a_phone(site: Site, language: str) -> None:
    with window(site.browser, PHONE) as page:
        sign_in(page, f"{site.url}/?lang={language}", PAGE_TOKEN)
        heads = [page.locator(f"header {one}").bounding_box() for one in ("nav >> nth=0", ".languages", ".out button")]
        middles = [head["y"] + head["height"] / 2 for head in heads if head]
        assert len(middles) == 3
        assert max(middles) - min(middles) < 2


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


def test_printed_tables_are_whole_and_may_break_over_pages(site: Site) -> None:
    """A list that must not break begins on the second sheet; what scrolls in a window is cut off on paper."""
    with window(site.browser, (720, 1000)) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.emulate_media(media="print")
        for path in ("/?range=30", "/calls?range=all"):
            page.goto(f"{site.url}{path}")
            assert not scrolls_sideways(page), path
        assert page.locator("table.calls thead").is_visible()
        assert page.locator("section.card").evaluate("card => getComputedStyle(card).breakInside") == "auto"


def test_a_filter_is_chosen_in_the_form_and_taken_away_by_its_chip(site: Site) -> None:
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.goto(f"{site.url}/calls?lang=en")
        every = page.locator("h1").inner_text()
        for field, value, shown in (
            ("outcome", "answered", "Answered"),
            ("outcome", "missing", "No result yet"),
            ("flag", "conflict", "In conflict"),
            ("flag", "recovered", "Recovered by lookup"),
            ("flag", "unregistered", "Never registered"),
            ("flag", "unconfirmed", "Not confirmed by eSMS"),
            ("key", "1", "Key 1"),
            ("campaign", PLANTED, PLANTED),
        ):
            page.locator(f"#{field}").select_option(value)
            page.get_by_role("button", name="Show").click()
            chip = page.locator("a.chip")
            assert shown in chip.inner_text()
            assert page.locator("table.calls tbody tr").count() > 0, shown
            assert page.locator(f"#{field}").input_value() == value
            chip.click()
            assert page.locator("a.chip").count() == 0, shown
            assert page.locator("h1").inner_text() == every


def test_a_call_is_searched_by_its_phone_number_and_followed(site: Site) -> None:
    with window(site.browser, PHONE) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.get_by_role("link", name="Calls", exact=True).first.click()
        page.locator("#q").fill("0901 888 484")
        page.keyboard.press("Enter")
        page.locator(f'a[href^="/calls/{STORY}"]').click()
        assert page.locator("h1").inner_text().startswith(STORY)
        page.get_by_text("As it came").first.click()
        assert STORY in page.locator("pre").first.inner_text()
        page.get_by_title("All calls to this number").click()
        assert page.locator(f'a[href^="/calls/{STORY}"]').count() == 1


def test_the_list_is_turned_and_downloaded(site: Site) -> None:
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.goto(f"{site.url}/calls?lang=en&outcome=answered")
        newest = page.locator("th.id").all_inner_texts()
        page.get_by_role("link", name="Older").click()
        older = page.locator("th.id").all_inner_texts()
        assert (len(newest), len(older), {*newest} & {*older}) == (50, 50, set())
        with page.expect_download() as download:
            page.get_by_role("link", name="Download this list").click()
        lines = download.value.path().read_text("utf-8-sig").splitlines()
        assert all(one in line for one, line in zip(newest + older, lines[1:101], strict=True))
        page.get_by_role("link", name="Newest").click()
        assert page.locator("th.id").all_inner_texts() == newest


def test_a_wrong_date_in_the_address_is_named(site: Site) -> None:
    with window(site.browser) as page:
        sign_in(page, f"{site.url}/?lang=en", PAGE_TOKEN)
        page.goto(f"{site.url}/calls?lang=en&from=2026-13-40")
        assert "'2026-13-40' is no date" in page.get_by_role("alert").inner_text()
        assert (violations(page), scrolls_sideways(page)) == ([], False)
