"""Requests that no program would send do no harm: some here, a minute of them in `make fuzz`, a million in soak."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import pytest
import requests
from constants import CALLBACK_TOKEN
from fuzz import ALLOWED, REQUESTS, SECONDS, Answers
from running import Program, free_port, settings_in, wait_until_healthy
from sqlalchemy import func, select

from webapp.storage.database import Database
from webapp.storage.models import status_reports

GROWTH = 100 << 20
"""How many bytes more a worker may hold after a million requests."""


@pytest.mark.timeout(600 + SECONDS + REQUESTS / 20)
@pytest.mark.parametrize(("fast_path", "log_format"), [("on", "text"), ("off", "json")])
def test_no_fuzzed_request_does_harm(tmp_path: Path, fast_path: str, log_format: str) -> None:
    log = tmp_path / "log"
    settings = settings_in(tmp_path, FAST_PATH=fast_path, LOG_FORMAT=log_format)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ("serve", "--bind", f"127.0.0.1:{port}", "--workers", "1")
    with Program(*arguments, stdout=log, stderr=log, environment=settings) as server:
        wait_until_healthy(url, server)
        answers = Answers(lambda: socket.create_connection(("127.0.0.1", port), timeout=20), half_close=True)
        answers.run(0.5, 0)
        (worker,) = server.children()
        before = resident(worker)
        answers.run()
        print(f"FAST_PATH={fast_path}, {answers}")
        grown = resident(worker) - before
        honest = requests.get(f"{url}/esms/callback/{CALLBACK_TOKEN}?ReferenceId=honest&SendStatus=5", timeout=20)
        server.send_signal(signal.SIGTERM)
        assert server.wait(40) == 0

    assert not answers.wrong, answers.wrong[:3]
    assert set(answers.statuses) <= ALLOWED, f"{answers}"
    assert {200, 400, 404} <= set(answers.statuses), f"{answers}"
    assert grown < GROWTH
    assert honest.json() == {"result": "settled"}
    logged = log.read_text().partition("set PUBLIC_URL")[2].partition("\n")[2]
    assert logged
    assert [line for line in logged.split("\n")[:-1] if not is_ours(line, log_format)] == []
    assert [word for word in ("Traceback", "died", CALLBACK_TOKEN) if word in logged] == []
    stored = stored_reports(settings["DATABASE_URL"])
    answered = sum(answers.results.values()) - answers.results["other-channel"] + 1
    assert answered <= stored <= answered + answers.unanswered


def is_ours(line: str, log_format: str) -> bool:
    """Whether no request has put something into the log that is not a field of a line."""
    if log_format == "json":
        return isinstance(json.loads(line), dict) and line.isprintable()
    return re.match(r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ (access|gunicorn|webapp)", line) is not None and (
        line.isprintable() and "forged" not in line
    )


def stored_reports(url: str) -> int:
    database = Database(url)
    with database.snapshot() as connection:
        stored: int = connection.scalar(select(func.count()).select_from(status_reports)) or 0
    database.close()
    return stored


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; only the same process can be compared."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10
