"""OPS_BIND: /metrics and /readyz are answered at one address alone, and from a cache of a second."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
import requests
from commands import run
from constants import CALLBACK_TOKEN
from running import free_port, serving

from webapp.web.health import Shared
from webapp.web.ops import OpsAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
serve = import_module("webapp.cli.serve")
PATH = f"/esms/callback/{CALLBACK_TOKEN}"
QUERY = "?ReferenceId=a&SendStatus=5&CallStatus=ANSWERED"


@pytest.fixture(params=["on", "off"])
def addresses(request: pytest.FixtureRequest, settings: object, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A server's address for everybody, and the one for operators."""
    assert settings
    ops = f"127.0.0.1:{free_port()}"
    with serving(
        tmp_path / "log", "--workers", "1", OPS_BIND=ops, FAST_PATH=request.param, TRUSTED_PROXIES="1"
    ) as address:
        yield address, f"http://{ops}"


@ON_SQLITE
def test_each_address_answers_what_is_its_own_whatever_headers_say_and_for_a_second_from_a_cache(
    addresses: tuple[str, str],
) -> None:
    public, ops = addresses

    def status(method: str, url: str, **headers: str) -> int:
        return requests.request(method, url, headers=headers, timeout=30).status_code

    earlier = shown_within_a_second(ops)
    assert [status("GET", f"{ops}{path}") for path in ("/metrics", "/readyz", "/healthz")] == [200, 200, 200]
    assert status("GET", f"{public}{PATH}{QUERY}") == status("GET", f"{public}/healthz") == 200
    port = ops.rpartition(":")[2]
    forged = {"Host": f"127.0.0.1:{port}", "X-Forwarded-Host": f"127.0.0.1:{port}", "X-Forwarded-Port": port}
    unknown = requests.get(f"{public}/no-such-page", timeout=30)
    for path in ("/metrics", "/readyz"):
        answer = requests.get(f"{public}{path}", headers=forged, timeout=30)
        assert (answer.status_code, answer.content) == (404, unknown.content)
        assert [status(method, f"{public}{path}") for method in ("HEAD", "POST", "OPTIONS", "PUT")] == [404] * 4
    for path in (f"{PATH}{QUERY}", f"{PATH}x{QUERY}", "/", "/api/calls", "/api/openapi.json", "/static/page.css"):
        assert status("GET", f"{ops}{path}") == 404
        assert status("POST", f"{ops}{path}", Host=public.removeprefix("http://")) == 404
    time.sleep(1.01)
    shown = requests.get(f"{ops}/metrics", timeout=30).text
    assert shown != earlier
    assert re.search(r'^esms_callbacks_total\{result="settled"\} 1\.0$', shown, re.MULTILINE)
    assert "esms_wrong_tokens_total 0.0" in shown


def shown_within_a_second(ops: str) -> str:
    """The metrics, which are the same however often they are asked for within a second."""
    while True:
        began = time.monotonic()
        answers = [requests.get(f"{ops}/metrics", timeout=30).text for _ in range(3)]
        if time.monotonic() - began < 1:
            break
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


@ON_SQLITE
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ("127.0.0.1:{port}", "OPS_BIND (127.0.0.1:{port}) and --bind (127.0.0.1:{port}) take the same port"),
        ("0.0.0.0:{port}", "OPS_BIND (0.0.0.0:{port}) and --bind (127.0.0.1:{port}) take the same port"),
        ("192.0.2.1:{port}", "cannot listen on 192.0.2.1:{port}"),
        ("nowhere.invalid:{port}", "cannot listen on nowhere.invalid:{port}"),
    ],
)
def test_an_address_that_cannot_be_used_stops_the_server_at_once(
    ops: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("OPS_BIND", ops.format(port=port))

    result = run("serve", "--bind", f"127.0.0.1:{port}")

    assert result.exit_code == 1
    assert words.format(port=port) in result.stderr
    assert "choose another OPS_BIND" in result.stderr or "choose another one" in result.stderr


@ON_SQLITE
@pytest.mark.usefixtures("settings")
def test_sockets_of_systemd_must_include_the_ops_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """With them gunicorn listens nowhere else."""
    served: list[object] = []
    monkeypatch.setattr(serve, "_become_gunicorn", lambda *arguments: served.append(arguments))
    with socket.create_server(("127.0.0.1", 0)) as public, socket.create_server(("127.0.0.1", 0)) as ops:
        bind = f"127.0.0.1:{ops.getsockname()[1]}"
        monkeypatch.setenv("OPS_BIND", bind)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setattr(serve, "_FIRST_SOCKET", public.fileno())
        refused = run("serve")
        monkeypatch.setattr(serve, "_FIRST_SOCKET", ops.fileno())
        accepted = run("serve")

    assert (refused.exit_code, accepted.exit_code, len(served)) == (1, 0, 1)
    assert f"add ListenStream={bind} to it" in refused.stderr


def test_an_address_is_the_ops_address_by_host_and_port() -> None:
    one, every, six = OpsAddress("127.0.0.1:9100"), OpsAddress("0.0.0.0:9100"), OpsAddress("[::1]:9100")

    assert [address.is_at(("127.0.0.1", 9100)) for address in (one, every, six)] == [True, True, False]
    assert [address.is_at(("127.0.0.2", 9100)) for address in (one, every, six)] == [False, True, False]
    assert [address.is_at(("::1", 9100, 0, 0)) for address in (one, every, six)] == [False, True, True]
    assert [address.is_at(("127.0.0.1", 9101)) for address in (one, every, six)] == [False] * 3
    assert [address.is_at("/run/esms-calls.sock") for address in (one, every, six)] == [False] * 3
    assert OpsAddress(":9100").is_at(("192.0.2.1", "9100"))
    assert OpsAddress("localhost:9100").is_at((socket.gethostbyname("localhost"), 9100))


def test_requests_that_come_together_share_what_is_begun_after_they_came() -> None:
    made: list[int] = []
    go_on = threading.Event()

    def make() -> int:
        made.append(len(made))
        assert go_on.wait(10)
        return made[-1]

    shared = Shared(make, seconds=0)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(shared.get)
        while not made:
            time.sleep(0.001)
        others = [pool.submit(shared.get) for _ in range(19)]
        time.sleep(0.1)
        go_on.set()
        found = [first.result(), *(one.result() for one in others)]

    assert found == [0] + [1] * 19
    assert shared.get() == 2


def test_a_failure_is_not_kept() -> None:
    answers = iter([0, 1])
    shared = Shared(lambda: 1 // next(answers), seconds=60)

    with pytest.raises(ZeroDivisionError):
        shared.get()
    assert shared.get() == shared.get() == 1
