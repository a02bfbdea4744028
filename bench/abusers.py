"""Requests that a server must survive, sent by one cheap process: ``python -m bench.abusers NAME ADDRESS SECONDS``.

It sends to 127.0.0.1 alone, at a bounded rate and over a bounded number of connections, and ends by itself. At the end
it prints how many requests it sent and how they were answered, as JSON.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.load import API_TOKEN, CALLBACK_TOKEN

if TYPE_CHECKING:
    from typing import NoReturn

HOST = "127.0.0.1"
STRANGER = "127.0.0.2"
"""The address that all of it comes from: a proxy limits the requests of one address."""
_WRONG = "/esms/callback/wrong-token-of-the-benchmark"
_RIGHT = f"/esms/callback/{CALLBACK_TOKEN}"
_TIMEOUT_SECONDS = 20
_GRACE_SECONDS = 5
"""How long after its time a process may live that cannot end in an orderly way."""
_RETRY_SECONDS = 0.05
_PIPELINED = 200
"""Requests that one connection sends at once without reading an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abuse:
    """Requests that several connections repeat, each at most ``rate`` times a second."""

    what: str
    requests: Callable[[], Iterator[bytes]]
    connections: int = 4
    rate: float = 100.0
    manner: Literal["one by one", "pipelined", "slowly"] = "one by one"


def _head(method: str, path: str, *headers: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: {HOST}", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def _post(path: str, body: bytes, *headers: str, kind: str = "application/x-www-form-urlencoded") -> bytes:
    return _head("POST", path, f"Content-Length: {len(body)}", f"Content-Type: {kind}", *headers) + body


def _to_api(calls: list[dict[str, str]]) -> bytes:
    body = json.dumps(calls).encode()
    return _post("/api/calls", body, f"Authorization: Bearer {API_TOKEN}", kind="application/json")


def _repeat(*requests: bytes) -> Callable[[], Iterator[bytes]]:
    def endless() -> Iterator[bytes]:
        while True:
            yield from requests

    return endless


def _pipeline(path: str) -> Callable[[], Iterator[bytes]]:
    return _repeat(_head("GET", path) * _PIPELINED)


def _blanks() -> Iterator[bytes]:
    blanks = " " * 7_000
    values = (f"a{blanks}b", f"{blanks}b", f"a{blanks}", f"{blanks[:3500]}b{blanks[:3500]}")
    return _repeat(*(_head("GET", f"{_WRONG}?ReferenceId=1", f"X-Blanks: {value}") for value in values))()


def _long_times() -> Iterator[bytes]:
    """10,000 calls, as many of them with a placed_at of 200,000 characters as fit into a body that is accepted."""
    long = ["T " * 100_000, "9" * 200_000, "2026-11-23T" + "0" * 200_000, "T" * 200_000]
    calls = [{"reference_id": f"long-{number}", "placed_at": "2026-11-23"} for number in range(9_968)]
    calls[:0] = [{"reference_id": f"longest-{number}", "placed_at": long[number % len(long)]} for number in range(32)]
    # A list is refused at its first bad item: each kind of text comes first once.
    while True:
        for _ in long:
            calls[0], calls[1], calls[2], calls[3] = calls[1], calls[2], calls[3], calls[0]
            yield _to_api(calls)


def _refused_bodies() -> Iterator[bytes]:
    """8 MB, refused at the last item, so that nothing is stored."""
    calls = [{"reference_id": str(uuid.uuid4()), "campaign": "c" * 200, "phone": "0" * 200} for _ in range(9_999)]
    calls = [call | {"request_id": "r" * 200} for call in calls]
    return _repeat(_to_api([*calls, {"reference_id": ""}]))()


def _registrations() -> Iterator[bytes]:
    while True:
        yield _to_api([{"reference_id": str(uuid.uuid4()), "campaign": "bench"} for _ in range(10_000)])


def _many_fields() -> Iterator[bytes]:
    """Forms of nearly 64 KiB, each another one, so that each is stored among the rejected."""
    fields = "&".join(f"{number:x}=" for number in range(11_000)).encode()
    number = 0
    while True:
        number += 1
        yield _post(_RIGHT, b"number=%d&" % number + fields)


def _many_parts() -> Iterator[bytes]:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    body = part * (65_000 // len(part)) + b"--x--\r\n"
    return _repeat(_post(_RIGHT, body, kind="multipart/form-data; boundary=x"))()


_BODY_OF_1_MB = b"a=" + b"x" * 1_000_000
_WITHOUT_TOKEN = _post("/api/calls", b"[" + b" " * 1_000_000 + b"]", kind="application/json")

ABUSES: Mapping[str, Abuse] = {
    "pipelined": Abuse(
        what="4 connections pipeline requests to /healthz", requests=_pipeline("/healthz"), manner="pipelined"
    ),
    "pipelined-wrong": Abuse(
        what="4 connections pipeline requests with a wrong token", requests=_pipeline(_WRONG), manner="pipelined"
    ),
    "bodies": Abuse(what="bodies of 1 MB to a wrong token", requests=_repeat(_post(_WRONG, _BODY_OF_1_MB)), rate=50),
    "api-bodies": Abuse(what="bodies of 1 MB to the API without a token", requests=_repeat(_WITHOUT_TOKEN), rate=50),
    "blanks": Abuse(what="headers with 7,000 blanks", requests=_blanks),
    "slow-heads": Abuse(
        what="400 connections send a head slowly",
        requests=_repeat(_head("GET", _WRONG)),
        connections=400,
        manner="slowly",
    ),
    "slow-bodies": Abuse(
        what="400 connections send a body slowly to a wrong token",
        requests=_repeat(_post(_WRONG, b"x" * 1000)),
        connections=400,
        manner="slowly",
    ),
    "wrong-tokens": Abuse(
        what="1,000 requests/s with a wrong token", requests=_repeat(_head("GET", f"{_WRONG}?ReferenceId=1")), rate=250
    ),
    "fields": Abuse(what="forms with 11,000 fields (with the token)", requests=_many_fields, rate=5),
    "parts": Abuse(what="multipart forms with 1,200 parts (with the token)", requests=_many_parts, rate=5),
    "times": Abuse(
        what="10,000 calls with placed_at of 200,000 characters (with the API token)",
        requests=_long_times,
        connections=1,
        rate=2,
    ),
    "refused-calls": Abuse(
        what="8 MB of calls, the last one bad (with the API token)", requests=_refused_bodies, connections=1, rate=2
    ),
    "registrations": Abuse(
        what="10,000 calls registered at once (with the API token)", requests=_registrations, connections=1, rate=0.5
    ),
}


class _Sender:
    """Sends the requests of one abuse until its time is over, and counts the answers."""

    def __init__(self, abuse: Abuse, port: int, seconds: float) -> None:
        self._abuse, self._port = abuse, port
        self._until = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._until

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self._port), timeout=_TIMEOUT_SECONDS, source_address=(STRANGER, 0))

    def run(self) -> None:
        if self._abuse.manner == "slowly":
            self._drip()
        else:
            self._run_threads()

    def _run_threads(self) -> None:
        """One thread a connection."""
        send = self._pipeline if self._abuse.manner == "pipelined" else self._one_by_one
        threads = [threading.Thread(target=send, daemon=True) for _ in range(self._abuse.connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self._until - time.monotonic()))

    def _one_by_one(self) -> None:
        """Each request when the one before it is answered; a connection is used again as long as it lives."""
        line: socket.socket | None = None
        for request in self._abuse.requests():
            due = time.monotonic() + 1 / self._abuse.rate
            try:
                line = line or self.connect()
                line = self._exchange(line, request)
            except OSError as error:
                self.counts[type(error).__name__] += 1
                line = None
                time.sleep(_RETRY_SECONDS)
            if self.over:
                return
            time.sleep(max(0.0, due - time.monotonic()))

    def _exchange(self, line: socket.socket, request: bytes) -> socket.socket | None:
        self.counts["sent"] += 1
        # A server that answers early may not read the rest, which is no reason not to read its answer.
        with suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(request)
        answer = line.recv(65536)
        self.counts[answer[9:12].decode("latin-1") or "closed"] += 1
        if not answer or b"\r\nconnection: close" in answer.lower():
            line.close()
            return None
        return line

    def _pipeline(self) -> None:
        """Writes as fast as the server reads; another thread reads the answers and drops them."""
        for request in self._abuse.requests():
            if self.over:
                return
            line = None
            with suppress(OSError):
                line = self.connect()
                reader = threading.Thread(target=self._drop_answers, args=[line], daemon=True)
                reader.start()
                while not self.over:
                    line.sendall(request)
                    self.counts["sent"] += _PIPELINED
            if line:
                line.close()
            time.sleep(1 / self._abuse.rate)

    def _drop_answers(self, line: socket.socket) -> None:
        with suppress(OSError):
            while answers := line.recv(1 << 20):
                self.counts["answered"] += answers.count(b"HTTP/1.1 ")
        with suppress(OSError):
            line.close()

    def _drip(self) -> None:
        """Many connections in one thread; each sends a byte a second, and is opened again when it ends."""
        request = next(self._abuse.requests())
        head = request.partition(b"\r\n\r\n")[0]
        begin = len(head) + 4 if request.startswith(b"POST") else len(head) // 2
        lines: dict[socket.socket, int] = {}
        selector = selectors.DefaultSelector()
        while not self.over:
            second_ends = time.monotonic() + 1
            for _ in range(self._abuse.connections - len(lines)):
                with suppress(OSError):
                    line = self.connect()
                    line.sendall(request[:begin])
                    line.settimeout(0)
                    selector.register(line, selectors.EVENT_READ)
                    lines[line] = begin
                    self.counts["sent"] += 1
            for line, at in list(lines.items()):
                with suppress(OSError):
                    line.send(request[at : at + 1])
                lines[line] = at + 1 if at + 1 < len(request) else begin
            while (left := second_ends - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    line = key.fileobj  # type: ignore[assignment]
                    with suppress(OSError):
                        self.counts[line.recv(4096)[9:12].decode("latin-1") or "closed"] += 1
                    selector.unregister(line)
                    line.close()
                    del lines[line]


def main() -> NoReturn:
    """Send until the time is over."""
    name, address, seconds = sys.argv[1:]
    host, _, port = address.partition(":")
    if host != HOST:
        raise SystemExit(f"{host}: only {HOST} is allowed")
    # Whatever hangs, this process ends: SIGALRM kills it.
    signal.alarm(int(float(seconds)) + _GRACE_SECONDS)
    sender = _Sender(ABUSES[name], int(port), float(seconds))
    sender.run()
    sys.stdout.write(f"{json.dumps(sender.counts)}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
