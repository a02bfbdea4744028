"""Sends callbacks at a constant rate, and measures each answer from the moment at which its callback was due.

A callback that waits for a free connection is measured as well: a load that paused instead would hide the worst times.
It is a process of its own, so that nothing else uses its interpreter: ``python -m bench.steady URL RATE SECONDS
CONNECTIONS WARM_UP [FILE]``. What is due in the first WARM_UP seconds is sent, but not measured.
"""

from __future__ import annotations

import asyncio
import json
import math
import selectors
import sys
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from bench.load import callback_url, new_call

_PATIENCE_SECONDS = 30
"""How long to wait for the last answers. A callback without an answer counts as this time."""
_RECONNECT_SECONDS = 0.1


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it; replaced when it ends."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._request: tuple[float, str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""
        self._sender.is_idle(self)

    def send(self, due: float, reference_id: str) -> None:
        assert self._transport
        self._request = due, reference_id
        self._transport.write(self._sender.request(reference_id))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._request is None:
            return
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(body) < length:
            return
        request, self._request, self._received = self._request, None, b""
        self._sender.is_answered(*request, ok=head.split(b" ", 2)[1] == b"200")
        if b"\r\nconnection: close" in head.lower():
            return
        self._sender.is_idle(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._sender.is_lost(self, self._request and self._request[0])
        self._request = None


class Sender:
    """The callbacks of one load, and their answers."""

    def __init__(self, base: str, rate: float, seconds: float, connections: int, warm_up: float) -> None:
        """Send nothing yet."""
        parts = urlsplit(base)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._base, self._rate, self._seconds, self._connections = base, rate, seconds, connections
        self._warm_up = warm_up
        self._waiting: deque[tuple[float, str]] = deque()
        self._idle: deque[_Connection] = deque()
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.times: list[float] = []
        self.accepted: list[str] = []
        self.refused = self.broken = 0
        self._measured_from = 0.0

    def request(self, reference_id: str) -> bytes:
        """The bytes of one callback."""
        target = callback_url(self._base, reference_id).removeprefix(self._base)
        return f"GET {target} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode()

    async def run(self) -> None:
        """Send all, and wait for the answers."""
        self._loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            self._connect()
        await asyncio.sleep(0.2)
        unmeasured, total = math.ceil(self._rate * self._warm_up), math.ceil(self._rate * self._seconds)
        start = self._loop.time() + self._warm_up
        self._measured_from = start
        for number in range(-unmeasured, total):
            due = start + number / self._rate
            if (pause := due - self._loop.time()) > 0:
                await asyncio.sleep(pause)
            self._waiting.append((due, new_call()))
            self._send_next()
        until = self._loop.time() + _PATIENCE_SECONDS
        while len(self.times) + self.broken < total and self._loop.time() < until:  # noqa: ASYNC110 - it is over then
            await asyncio.sleep(0.01)
        self.broken = total - len(self.times)
        self._over = True

    def is_idle(self, connection: _Connection) -> None:
        """Use a connection for the next callback."""
        self._idle.append(connection)
        self._send_next()

    def is_answered(self, due: float, reference_id: str, *, ok: bool) -> None:
        """Count an answer."""
        if due < self._measured_from:
            return
        self.times.append(self._loop.time() - due)
        if ok:
            self.accepted.append(reference_id)
        else:
            self.refused += 1

    def is_lost(self, connection: _Connection, due: float | None) -> None:
        """Replace a connection that ended; the request that was on it, ``due`` then, is not sent again."""
        self.broken += due is not None and due >= self._measured_from
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._over:
            self._connect()

    def _send_next(self) -> None:
        while self._waiting and self._idle:
            self._idle.popleft().send(*self._waiting.popleft())

    def _connect(self) -> None:
        task = self._loop.create_task(self._connect_until_over())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_until_over(self) -> None:
        while not self._over:
            try:
                await self._loop.create_connection(lambda: _Connection(self), self._host, self._port)
            except OSError:
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; infinite if there is none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.inf


def main() -> None:
    """Send, and print the result."""
    base, rate, seconds, connections, warm_up, *file = sys.argv[1:]
    sender = Sender(base, float(rate), float(seconds), int(connections), float(warm_up))
    # select() waits to the microsecond; epoll's timer is one of milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(sender.run())
    for path in file:
        Path(path).write_text("".join(f"{reference_id}\n" for reference_id in sender.accepted))
    times = sender.times + [float(_PATIENCE_SECONDS)] * sender.broken
    result = {
        "answers": len(sender.times),
        "seconds": float(seconds),
        "refused": sender.refused,
        "broken": sender.broken,
        "p50": quantile(times, 0.50),
        "p99": quantile(times, 0.99),
    }
    sys.stdout.write(f"RESULT {json.dumps(result)}\n")


if __name__ == "__main__":
    main()
