"""A page of another site, in a real browser: it signs nobody in or out, reads nothing, shows our page in no frame."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browser import chromium, sign_in
from running import serving, settings_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

PAGE_TOKEN = "page-token-of-the-tests"
FORM = """<!doctype html><form method=post action="{site}{path}"><input name=token value="{token}">
<input name=csrf_token value=x></form><script>document.forms[0].submit()</script>"""
FRAME = '<!doctype html><iframe src="{site}/" width=600 height=400></iframe>'
READ = """<!doctype html><p id=read>nothing</p><script>
fetch("{site}/calls", {{credentials: "include"}}).then(answer => answer.text()).then(
  text => {{ document.getElementById("read").textContent = text }},
  error => {{ document.getElementById("read").textContent = "refused" }})
</script>"""


class Sites(NamedTuple):
    """Our server, another site, and a browser. The names differ, so that the browser takes them for two sites."""

    ours: str
    other: str
    pages: dict[str, str]
    browser: Browser


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("site")
    environment = settings_in(folder, PAGE_TOKEN=PAGE_TOKEN)
    pages: dict[str, str] = {}

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with (
        chromium() as browser,
        HTTPServer(("127.0.0.1", 0), Other) as other,
        serving(folder / "log", "--workers", "1", **environment) as url,
    ):
        threading.Thread(target=other.serve_forever).start()
        yield Sites(url, f"http://localhost:{other.server_port}", pages, browser)
        other.shutdown()


@pytest.fixture
def page(sites: Sites) -> Iterator[Page]:
    """A window of someone who is signed in at our server."""
    context = sites.browser.new_context()
    window = context.new_page()
    sign_in(window, f"{sites.ours}/?lang=en", PAGE_TOKEN)
    yield window
    context.close()


def is_signed_in(sites: Sites, page: Page) -> bool:
    page.goto(f"{sites.ours}/")
    return page.locator("form.out").count() == 1


def test_a_form_of_another_site_signs_nobody_out(sites: Sites, page: Page) -> None:
    sites.pages["/out"] = FORM.format(site=sites.ours, path="/sign-out", token="")
    with page.expect_response(lambda answer: "/sign-out" in answer.url) as answer:
        page.goto(f"{sites.other}/out")
    assert answer.value.status == 400
    assert is_signed_in(sites, page)


def test_a_form_of_another_site_signs_nobody_in(sites: Sites) -> None:
    """Else someone would look at, and search in, another one's account."""
    sites.pages["/in"] = FORM.format(site=sites.ours, path="/sign-in", token=PAGE_TOKEN)
    context = sites.browser.new_context()
    page = context.new_page()
    with page.expect_response(lambda answer: "/sign-in" in answer.url) as answer:
        page.goto(f"{sites.other}/in")
    assert answer.value.status == 400
    assert not is_signed_in(sites, page)
    context.close()


def test_no_frame_of_another_site_shows_the_page(sites: Sites, page: Page) -> None:
    sites.pages["/frame"] = FRAME.format(site=sites.ours)
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(f"{sites.other}/frame")
    assert "frame-ancestors 'none'" in "".join(refused)
    assert all("esms-calls" not in frame.content() for frame in page.frames if frame is not page.main_frame)


def test_no_script_of_another_site_reads_the_page(sites: Sites, page: Page) -> None:
    sites.pages["/read"] = READ.format(site=sites.ours)
    page.goto(f"{sites.other}/read")
    page.get_by_text("refused").wait_for()
