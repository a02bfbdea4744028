"""Takes the pictures in docs/images: the demo's overview in both languages, by Playwright and Debian's chromium."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from playwright.sync_api import sync_playwright

from demo.fortnight import DAYS
from demo.serve import PAGE_TOKEN
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

IMAGES = Path(__file__).parents[1] / "docs/images"
_SIZE = (1280, 1357)
"""Width and height in pixels: down to the lower edge of a card."""
_LOCALES = {"en": "en-GB", "vi": "vi-VN"}


@click.command()
def main() -> None:
    """Take the pictures anew."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("The pictures are taken with chromium: apt-get install chromium.")
    IMAGES.mkdir(exist_ok=True)
    with _demo() as url, sync_playwright() as playwright:
        # As root chromium runs only without its sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for language in _LOCALES:
            file = IMAGES / f"overview-{language}.png"
            _take(browser, url, language, file)
            click.echo(f"{file}: {file.stat().st_size // 1024} KiB")
        browser.close()


@contextmanager
def _demo() -> Iterator[str]:
    """The address of a demo that runs until the end of the block."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="esms-calls-screenshots-") as folder:
        options = ["--folder", folder, "--port", f"{port}", "--sandbox-port", "0", "--no-browser"]
        demo = subprocess.Popen([sys.executable, "-m", "demo", *options], stdout=subprocess.PIPE, text=True)
        try:
            assert demo.stdout
            if not any("Ctrl-C ends" in line for line in demo.stdout):
                raise click.ClickException("The demo has ended instead of serving.")
            yield f"http://127.0.0.1:{port}"
        finally:
            demo.send_signal(signal.SIGINT)
            demo.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _take(browser: Browser, url: str, language: str, file: Path) -> None:
    width, height = _SIZE
    first = datetime.now(Settings().time_zone).date() - timedelta(days=DAYS)
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="light", locale=_LOCALES[language]
    )
    page = context.new_page()
    page.goto(f"{url}/?lang={language}")
    page.locator("input[type=password]").fill(PAGE_TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("form.out")
    page.goto(f"{url}/?lang={language}&from={first}&to={first + timedelta(days=DAYS)}")
    page.screenshot(path=file)
    context.close()


if __name__ == "__main__":
    main()
