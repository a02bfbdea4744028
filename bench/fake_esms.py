"""eSMS's place in the benchmark: a process of its own, so that it shares no interpreter with the runs that ask it.

``python -m bench.fake_esms LATENCY CALLS SEED`` is the sandbox with CALLS placed calls; with 0 calls it is a plain
server that answers every look-up at once. It prints its address, and when its input ends, ``Lookups`` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from bench.programs import ROOT
from webapp.esms.sandbox.answers import lookup_fields
from webapp.esms.sandbox.calls import draw_call
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import SERVICE_PATH, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """The look-ups that arrived."""

    arrivals: Sequence[float]
    """When each one did, in order, in seconds of the monotonic clock."""
    repeated: int
    """Those about a call that was asked about before."""
    overlapping: int
    """Those about a call that was being asked about at that moment."""

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return self.arrivals[-1] - self.arrivals[0]

    @property
    def rate(self) -> float:
        """Look-ups a second between the first and the last."""
        return (len(self.arrivals) - 1) / self.seconds

    @property
    def most_in_a_second(self) -> int:
        """The most look-ups that arrived within any one second."""
        window: deque[float] = deque()
        most = 0
        for at in self.arrivals:
            window.append(at)
            while window[0] <= at - 1:
                window.popleft()
            most = max(most, len(window))
        return most

    def part(self, first: float, last: float) -> Lookups:
        """Those between two shares of their number: from 0.9 to 1 is the last tenth."""
        number = len(self.arrivals)
        return Lookups(arrivals=self.arrivals[int(first * number) : int(last * number)], repeated=0, overlapping=0)


class FakeEsms:
    """A fake eSMS that runs: its address, and in the end the look-ups that arrived."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until it listens."""
        assert process.stdout
        self._process = process
        self.url = process.stdout.readline().strip()

    def end(self) -> Lookups:
        """End it."""
        printed, _ = self._process.communicate()
        return Lookups(**json.loads(printed))


@contextmanager
def fake_esms(*, latency: float = 0.0, calls: int = 0, seed: int = 0) -> Iterator[FakeEsms]:
    """A fake eSMS until the end of the block, at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.fake_esms", str(latency), str(calls), str(seed)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield FakeEsms(process)
    finally:
        process.kill()
        process.wait()


def placed(calls: int, seed: int) -> list[str]:
    """The identities of the sandbox's calls."""
    options = Options(seed=seed)
    return [draw_call(options, number).reference_id for number in range(calls)]


def _run_sandbox(latency: float, calls: int, seed: int) -> Lookups:
    with Sandbox(Options(seed=seed, latency=latency)) as sandbox:
        sandbox.place(calls)
        _print(sandbox.api_url)
        sys.stdin.read()
        times = Counter(lookup.reference_id for lookup in sandbox.lookups)
        return Lookups(
            arrivals=[lookup.at for lookup in sandbox.lookups],
            repeated=sum(count - 1 for count in times.values()),
            overlapping=len(sandbox.overlaps),
        )


class _PlainConnection(asyncio.Protocol):
    """One connection: answers to every look-up that the call has ended."""

    fields = lookup_fields(draw_call(Options(), 0))
    arrivals = array("d")
    known: set[bytes] = set()  # noqa: RUF012 - all connections share it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, self._received = self._received.partition(b"\r\n\r\n")
        if not end:
            self._received = head
            return
        self.arrivals.append(time.monotonic())
        target = urlsplit(head.split(b" ", 2)[1].decode())
        [reference_id] = parse_qs(target.query)["ReferenceId"]
        self.known.add(reference_id.replace("-", "").encode())
        body = json.dumps(self.fields | {"ReferenceId": reference_id}).encode()
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(answer.encode() + body)


async def _run_plain_server() -> Lookups:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_PlainConnection, "127.0.0.1", 0)
    _print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{SERVICE_PATH}")
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    arrivals = list(_PlainConnection.arrivals)
    return Lookups(arrivals=arrivals, repeated=len(arrivals) - len(_PlainConnection.known), overlapping=0)


def _print(line: Any) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Answer look-ups until the input ends."""
    latency, calls, seed = sys.argv[1:]
    lookups = _run_sandbox(float(latency), int(calls), int(seed)) if int(calls) else asyncio.run(_run_plain_server())
    _print(json.dumps(asdict(lookups)))


if __name__ == "__main__":
    main()
