"""The log of a real server as JSON: every line is one object, and the lines of one request belong together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from constants import API_TOKEN, CALLBACK_TOKEN
from running import Program, free_port, serving, settings_in, wait_until_healthy
from until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

FORWARDED = {"X-Forwarded-For": "203.0.113.9"}


@dataclass
class Server:
    url: str
    folder: Path
    process: Program
    read: int = 0

    def lines(self) -> list[dict[str, Any]]:
        """What was logged since; every line must be an object."""
        lines = (self.folder / "stderr").read_text().splitlines()
        new, self.read = lines[self.read :], len(lines)
        return [json.loads(line) for line in new]

    def request(self, method: str = "GET", token: str = CALLBACK_TOKEN, query: str = "", **given: Any) -> Any:
        url = f"{self.url}/esms/callback/{token}?{query}"
        return requests.request(method, url, timeout=10, **{"headers": FORWARDED, **given})


@pytest.fixture(scope="module", params=["on", "off"], ids=["fast", "slow"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("json-log")
    address = f"127.0.0.1:{free_port()}"
    environment = settings_in(folder, FAST_PATH=request.param, LOG_FORMAT="json", SPOOL="off", TRUSTED_PROXIES="1")
    arguments = ("serve", "--bind", address, "--workers", "1")
    with Program(*arguments, stderr=folder / "stderr", environment=environment, folder=folder) as process:
        wait_until_healthy(f"http://{address}", process)
        yield Server(f"http://{address}", folder, process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)


def test_the_start_is_logged_as_objects(server: Server) -> None:
    server.read = 0
    lines = list(takewhile(lambda line: line["logger"] != "access", server.lines()))

    assert {"gunicorn.error", "esms-calls"} >= {line["logger"] for line in lines}
    assert any(line["event"].startswith("Starting gunicorn") and line["level"] == "info" for line in lines)
    (hint,) = (line for line in lines if line["event"].startswith("The spool is off"))
    assert "\n" not in hint["event"] or hint["level"] == "info"


def test_a_callback_has_its_effect_its_milliseconds_and_the_id_that_the_proxy_gave(server: Server) -> None:
    server.lines()
    server.request(query="ReferenceId=a&SendStatus=7", headers=FORWARDED | {"X-Request-Id": "4bf92f35/7"})

    (line,) = server.lines()
    assert 0 < line.pop("milliseconds") < 5000
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "access",
        "remote_addr": "203.0.113.9",
        "method": "GET",
        "route": "/esms/callback/<token>",
        "status": 200,
        "effect": "progressed",
        "reference_id": "a",
        "request_id": "4bf92f35/7",
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_all_lines_of_one_request_have_one_id_and_others_have_another(server: Server, method: str) -> None:
    server.lines()
    given = 'x" ;\\'
    for _ in range(2):
        server.request(method, query="CallStatus=ANSWERED", headers=FORWARDED | {"X-Request-Id": given})

    first, second, third, fourth = server.lines()
    assert first["event"].startswith("callback rejected: ")
    assert (second["effect"], second["status"]) == ("rejected", 400)
    assert first["request_id"] == second["request_id"] != third["request_id"] == fourth["request_id"]
    assert len(first["request_id"]) == 16


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_404_says_why_and_never_which_token(server: Server, method: str) -> None:
    server.lines()
    answer = server.request(method, token="some-wrong-token-0123", query="ReferenceId=a")

    (line,) = server.lines()
    assert answer.status_code == line["status"] == 404
    assert line["reason"] == "wrong token"
    assert "effect" not in line
    assert "some-wrong" not in str(line)


@pytest.mark.parametrize("path", ["/esms/callback", "/esms/callback/", f"/esms/callback/{CALLBACK_TOKEN}/x"])
def test_a_404_beside_the_callback_route_says_so(server: Server, path: str) -> None:
    server.lines()
    requests.get(f"{server.url}{path}?ReferenceId=a", timeout=10)

    (line,) = server.lines()
    assert (line["status"], line["route"], line["reason"]) == (404, "unknown", "not the path of a CallbackUrl")


def test_a_callback_that_is_not_stored_tells_its_call_and_why_in_one_request(server: Server) -> None:
    server.lines()
    with sqlite3.connect(server.folder / "calls.db") as connection:
        connection.execute("ALTER TABLE status_reports RENAME TO away")
    try:
        answer = server.request(query="ReferenceId=b&SendStatus=7")
    finally:
        with sqlite3.connect(server.folder / "calls.db") as connection:
            connection.execute("ALTER TABLE away RENAME TO status_reports")

    assert answer.status_code == 503
    lines = server.lines()
    access = lines[-1]
    assert (access["status"], access["effect"]) == (503, "unavailable")
    about = [line for line in lines if line.get("request_id") == access["request_id"]]
    assert len(about) > 1
    assert {line["reference_id"] for line in about} == {"b"}


def test_what_is_no_http_belongs_to_no_request(server: Server) -> None:
    server.request(query="ReferenceId=c&SendStatus=7")
    server.lines()
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET /esms/callback/{CALLBACK_TOKEN} NONSENSE\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 400")

    (line,) = server.lines()
    assert "cannot be read" in line["event"]
    assert "request_id" not in line


def test_the_end_of_a_worker_is_logged_as_an_object(server: Server) -> None:
    server.lines()
    (worker,) = server.process.children()
    os.kill(worker, signal.SIGKILL)
    until(lambda: server.process.children() not in ([], [worker]), 10, "a new worker is there")
    wait_until_healthy(server.url, server.process)

    killed = [line for line in server.lines() if f"pid:{worker}" in line["event"]]
    assert {line["logger"] for line in killed} == {"gunicorn.error"}
    assert killed[0]["level"] == "error"


def test_at_debug_level_without_access_log_everything_but_requests_and_secrets_is_logged(tmp_path: Path) -> None:
    secret = """it's "the key"\\n"""
    environment = settings_in(
        tmp_path, ESMS_SECRET_KEY=secret, LOG_LEVEL="DEBUG", ACCESS_LOG="off", TRUSTED_PROXIES="1"
    )
    log = tmp_path / "log"
    with serving(log, "--workers", "1", **environment) as address:
        url = f"{address}/esms/callback/{CALLBACK_TOKEN}"
        requests.get(f"{url}?ReferenceId=a&SendStatus=5", timeout=10)
        requests.get(f"{url}?SendStatus=5", headers={"X-Request-Id": "req-7"}, timeout=10)
        counts = requests.get(f"{address}/metrics", timeout=10).text

    logged = log.read_text()
    assert "DEBUG gunicorn.error: Current configuration:" in logged
    assert " access: " not in logged
    assert 'route="/esms/callback/<token>",status="200"' in counts
    rejected = re.findall(r"WARNING webapp.callbacks.views: callback rejected: .*", logged)
    assert [line.endswith(" request_id=req-7") for line in rejected] == [True]
    assert logged.count(CALLBACK_TOKEN) == 1, "where the CallbackUrl is printed"
    for spelling in (secret, repr(secret)[1:-1], API_TOKEN):
        assert spelling not in logged
