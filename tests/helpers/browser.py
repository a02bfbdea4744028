"""Looks at the page with a real browser, Debian's chromium or its headless shell, and finds what is wrong with it."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page

DESKTOP, TABLET, PHONE = (1280, 900), (768, 1024), (390, 844)
"""Sizes of windows, in pixels."""
_PLAIN = ["--disable-gpu", "--num-raster-threads=1", "--disable-extensions", "--disable-site-isolation-trials"]
"""Chromium's options that leave out what no test looks at."""
_VIOLATIONS_ALONE = {"resultTypes": ["violations"], "preload": False, "selectors": False, "elementRef": False}
"""Axe describes no element that is as it must be."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none, but never in CI."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if path is None and "CI" not in os.environ:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # As root chromium runs only without its sandbox.
        alone = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=[*_PLAIN, *alone])
        yield browser
        browser.close()


@contextmanager
def window(browser: Browser, size: tuple[int, int] = DESKTOP, **settings: Any) -> Iterator[Page]:
    """A window of a new visitor; fails if the console had an error, such as a violated Content-Security-Policy."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, **settings)
    page = context.new_page()
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # The browser notes an answer like 403 as an error; that the page is refused is for the test to look at.
        refused = message.text.startswith("Failed to load resource") and message.location["url"] == page.url
        if message.type in {"error", "warning"} and not refused:
            problems.append(f"{message.text} ({page.url})")

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(f"{error} ({page.url})"))
    yield page
    context.close()
    assert not problems, problems


def sign_in(page: Page, url: str, token: str) -> None:
    """Open the page signed in; the form is sent without typing, for which the browser would look up passwords."""
    form = re.search(r'name="csrf_token" value="([^"]+)"', page.request.get(url).text())
    assert form
    page.request.post(urljoin(url, "/sign-in"), form={"csrf_token": form[1], "token": token})
    page.goto(url)
    assert page.locator("form.out").count() == 1


def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page: the rule, and the elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=_VIOLATIONS_ALONE).response["violations"]
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes']]}" for one in found]


def scrolls_sideways(page: Page) -> bool:
    """Whether the whole page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
