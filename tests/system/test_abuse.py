"""No connection holds up others: honest callbacks are answered beside each abuse, and none of them needs a token."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import requests
from constants import API_TOKEN, CALLBACK_TOKEN
from running import Program, free_port, serving, wait_until_healthy

from webapp.web.api import REGISTER_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
SET = pytest.mark.usefixtures("settings")
FAST_AND_SLOW = pytest.mark.parametrize("fast_path", ["on", "off"])
URL = f"/esms/callback/{CALLBACK_TOKEN}"
WRONG = "/esms/callback/a-wrong-token-of-the-tests"
ANSWER_SECONDS = 8
"""For an honest callback beside an abuse, on a machine that is busy with other tests."""
ABUSERS = 4


def honest_answers(url: str, seconds: float) -> list[float]:
    """Send callbacks on connections of their own; how long each took. Every one must be answered 200 in time."""
    took: list[float] = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        answer = requests.get(f"{url}{URL}?ReferenceId=honest&SendStatus=5", timeout=ANSWER_SECONDS)
        assert answer.status_code == 200
        took.append(time.monotonic() - began)
        time.sleep(0.02)
    return took


@contextmanager
def abused(url: str, abuse: Callable[[socket.socket], None]) -> Iterator[None]:
    """Some connections that do nothing but abuse, again and again, until the block ends."""
    host, _, port = url.removeprefix("http://").partition(":")
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as client:
                abuse(client)

    threads = [threading.Thread(target=run) for _ in range(ABUSERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def pipeline(request: str) -> Callable[[socket.socket], None]:
    """Send very many requests, and read whatever is answered."""

    def abuse(client: socket.socket) -> None:
        reader = threading.Thread(target=read_all, args=(client,))
        reader.start()
        with suppress(OSError):
            for _ in range(2):
                client.sendall(request.encode() * 200)
            client.shutdown(socket.SHUT_WR)
        reader.join(20)

    return abuse


def read_all(client: socket.socket) -> bytes:
    answer = b""
    with suppress(OSError):
        while part := client.recv(1 << 16):
            answer = (answer + part)[-1000:]
    return answer


def send(request: bytes) -> Callable[[socket.socket], None]:
    """Send one request and read its answer."""

    def abuse(client: socket.socket) -> None:
        with suppress(OSError):
            client.sendall(request)
        read_all(client)

    return abuse


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


BLANKS = " " * 7000
ABUSES = {
    "pipelined wrong tokens": pipeline(f"GET {WRONG} HTTP/1.1\r\nHost: x\r\n\r\n"),
    "pipelined health checks": pipeline("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    "pipelined posts": pipeline(f"POST {WRONG} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
    "1 MB to a wrong token": send(post(WRONG, b"x" * 1_000_000)),
    "1 MB to the API without a token": send(post("/api/calls", b"x" * 1_000_000)),
    "1 MB to a page that does not exist": send(post("/nowhere", b"x" * 1_000_000)),
    "7,000 blanks in a header": send(f"GET {WRONG}?a=b HTTP/1.1\r\nHost: x\r\nA: b{BLANKS}c\r\n\r\n".encode()),
    "7,000 blanks in Authorization": send(
        f"GET /api/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BLANKS}x\r\n\r\n".encode()
    ),
    "7,000 blanks in Content-Type": send(post(WRONG, b"x", f"Content-Type: multipart/form-data; a{BLANKS}b")),
    "7,000 blanks in X-Forwarded-For": send(
        f"GET {WRONG} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: a{BLANKS},{BLANKS}b\r\n\r\n".encode()
    ),
}


@ON_SQLITE
@SET
@FAST_AND_SLOW
def test_honest_callbacks_are_answered_beside_every_abuse(tmp_path: Path, fast_path: str) -> None:
    with serving(tmp_path / "log", "--workers", "1", FAST_PATH=fast_path, TRUSTED_PROXIES="1") as url:
        honest_answers(url, 0.2)
        slowest = {}
        for name, abuse in ABUSES.items():
            with abused(url, abuse):
                slowest[name] = max(honest_answers(url, 0.15))

    assert {name for name, seconds in slowest.items() if seconds > ANSWER_SECONDS} == set()


# What is refused is answered, and its body is not read


@ON_SQLITE
@SET
@FAST_AND_SLOW
def test_refusals_arrive_though_the_body_was_not_read(tmp_path: Path, fast_path: str) -> None:
    refused = {
        404: post(WRONG, b"x" * 1_000_000),
        405: post(URL, b"x" * 1_000_000).replace(b"POST", b"PUT"),
        401: post("/api/calls", b"x" * 1_000_000),
        # Whole bodies that are over the limit: clients send all of them before they read the answer.
        400: post(URL, b"x" * (REGISTER_LIMIT + 1)),
        413: post("/api/calls", b"x" * (REGISTER_LIMIT + 1), f"Authorization: Bearer {API_TOKEN}"),
    }
    answers = {}
    with serving(tmp_path / "log", "--workers", "1", FAST_PATH=fast_path) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for status, request in refused.items():
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(request)
                answers[status] = read_all(client)

    for status, answer in answers.items():
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"\r\nConnection: close\r\n" in answer
        assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


@ON_SQLITE
@SET
def test_only_a_body_that_will_be_read_is_waited_for_and_invited(tmp_path: Path) -> None:
    """Clients that send ``Expect: 100-continue`` keep their body back until it is invited."""
    body = b"ReferenceId=invited&SendStatus=7"
    heads = "Host: x\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n"
    with serving(tmp_path / "log", "--workers", "1") as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for expectation in ("", "Expect: 100-continue\r\n"):
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(f"POST {WRONG} HTTP/1.1\r\n{heads.format(expectation, 1_000_000)}".encode())
                assert read_all(client).startswith(b"HTTP/1.1 404 ")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"POST {URL} HTTP/1.1\r\n{heads.format(expectation, len(body))}".encode())
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            assert read_all(client).startswith(b"HTTP/1.1 200 ")


# With a token


def large_registration() -> bytes:
    """10,000 calls in just under 8 MiB."""
    item = {"request_id": "r" * 200, "phone": "0" * 200, "campaign": "c" * 200}
    return json.dumps([item | {"reference_id": f"call-{number:0120d}"} for number in range(10_000)]).encode()


@ON_SQLITE
@SET
def test_honest_callbacks_are_answered_beside_large_registrations(tmp_path: Path) -> None:
    body = large_registration()
    assert 7_500_000 < len(body) <= 8 << 20
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    statuses: list[int] = []
    took: list[float] = []
    with serving(tmp_path / "log", "--workers", "1") as url:

        def register() -> None:
            statuses.append(requests.post(f"{url}/api/calls", data=body, headers=headers, timeout=60).status_code)

        thread = threading.Thread(target=register)
        thread.start()
        while thread.is_alive():
            took += honest_answers(url, 0.2)

    assert statuses == [201]
    assert max(took) < ANSWER_SECONDS


@ON_SQLITE
@SET
def test_api_body_that_does_not_arrive_is_answered_within_the_deadline(tmp_path: Path) -> None:
    shorter = json.dumps({"webapp.web.api.BODY_SECONDS": 1})
    with serving(tmp_path / "log", "--workers", "1", CONSTANTS=shorter) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            head = f"POST /api/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_TOKEN}\r\n"
            client.sendall(f"{head}Content-Length: 100\r\n\r\n[".encode())
            began = time.monotonic()
            answer = read_all(client)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"within 1 seconds" in answer
    assert 0.7 < time.monotonic() - began < 10


# The end


@ON_SQLITE
@SET
@FAST_AND_SLOW
def test_idle_kept_connections_do_not_delay_the_end(fast_path: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as until_done:
        server = until_done.enter_context(
            Program("serve", "--bind", address, "--workers", "1", environment={"FAST_PATH": fast_path})
        )
        wait_until_healthy(f"http://{address}", server)
        host, _, port = address.partition(":")
        clients = [until_done.enter_context(socket.create_connection((host, int(port)))) for _ in range(20)]
        for number, client in enumerate(clients):
            path = f"{URL}?ReferenceId=a{number}" if number % 2 else "/healthz"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=10) == 0
        assert time.monotonic() - began < 8
        assert [client.recv(1000) for client in clients] == [b""] * 20
