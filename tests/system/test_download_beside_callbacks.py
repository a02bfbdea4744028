"""Downloads from the page in the server itself: callbacks of the same worker do not wait for them."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

import requests
from commands import ON_SQLITE, SET, many_calls
from constants import API_TOKEN, CALLBACK_TOKEN
from running import serving

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.writer import Writer

_LONGEST_SECONDS = 1.0
"""Measured: 30 ms beside a CSV, 200 ms beside a workbook. A worker that made it in one go would take seconds."""


def signed_in(url: str) -> requests.Session:
    session = requests.Session()
    found = re.search(r'name="csrf_token" value="([^"]+)"', session.get(url, timeout=10).text)
    assert found
    answer = session.post(f"{url}/sign-in", data={"csrf_token": found[1], "token": API_TOKEN}, timeout=10)
    assert "/sign-out" in answer.text
    return session


@ON_SQLITE
@SET
def test_callbacks_of_the_same_worker_do_not_wait_for_downloads(writer: Writer, tmp_path: Path) -> None:
    many_calls(writer, 1500)
    sizes: dict[str, int] = {}
    slowest, number = 0.0, 0
    with serving(tmp_path / "log", "--workers", "1") as url:
        people, esms = signed_in(url), requests.Session()

        def download() -> None:
            for form in ("csv", "xlsx"):
                sizes[form] = len(people.get(f"{url}/calls.{form}?until=2026-11-24", timeout=60).content)

        downloading = threading.Thread(target=download)
        downloading.start()
        while downloading.is_alive():
            number += 1
            begun_at = time.monotonic()
            query = f"ReferenceId=beside-{number}&CallStatus=ANSWERED&SendStatus=5"
            answer = esms.get(f"{url}/esms/callback/{CALLBACK_TOKEN}?{query}", timeout=10)
            slowest = max(slowest, time.monotonic() - begun_at)
            assert (answer.status_code, answer.json()) == (200, {"result": "settled"})

    assert slowest < _LONGEST_SECONDS
    assert number > 20
    assert sizes["csv"] > 200_000
    assert sizes["xlsx"] > 20_000
