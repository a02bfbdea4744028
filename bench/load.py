"""Load on a receiver: as much as it takes (wrk), or a constant rate of it. Knows nothing of who receives."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "callback-token-of-the-benchmark"  # noqa: S105 - of servers that live for seconds
_SCRIPT = Path(__file__).with_name("callback.lua")
_SLOWEST = "30s"


class Missing(Exception):
    """A program that the benchmark runs is not installed. Its text says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load brought: ``answers`` with any status, of which ``refused`` were not 200; ``broken`` had none."""

    answers: int
    seconds: float
    refused: int
    broken: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Callbacks answered 200, a second."""
        return self.taken / self.seconds

    @property
    def taken(self) -> int:
        """Callbacks answered 200."""
        return self.answers - self.refused


def find(program: str, package: str) -> str:
    """The path of a program; raises Missing with the Debian package that brings it."""
    if path := shutil.which(program):
        return path
    raise Missing(f"{program} is not installed; on Debian: apt-get install {package}")


def callback_url(base: str, reference_id: str | None = None) -> str:
    """The callback URL of a receiver, with the documented parameters if a call is named."""
    url = f"{base}/esms/callback/{TOKEN}"
    if reference_id is None:
        return url
    said = "CallDuration=0&CallStatus=&Ivr=&Price=0.0000&SentResult=0&CID=02871002454&SendStatus=5"
    return f"{url}?ReferenceId={reference_id}&{said}"


def new_call() -> str:
    """A ReferenceId that nobody has heard of."""
    return str(uuid.uuid4())


def as_much_as_it_takes(base: str, *, seconds: int, connections: int) -> Load:
    """Callbacks about new calls over so many connections, each sent when the one before it is answered."""
    threads = min(2, connections)
    command = [find("wrk", "wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", _SLOWEST]
    seed = secrets.randbits(48)
    return _load([*command, "-s", str(_SCRIPT), callback_url(base), "--", str(seed)])


def at_a_rate(
    base: str, *, rate: float, seconds: float, connections: int, taken: Path | None = None
) -> subprocess.Popen[str]:
    """Start a load of evenly spaced callbacks, whatever the answers take; ``taken`` gets the ids answered 200."""
    command = [sys.executable, "-m", "bench.steady", base, str(rate), str(seconds), str(connections)]
    return subprocess.Popen(
        [*command, str(taken)] if taken else command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def ended(load: subprocess.Popen[str]) -> Load:
    """What a load at a rate brought, once it has ended."""
    output, _ = load.communicate()
    return _read(output)


def _load(command: list[str]) -> Load:
    return _read(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _read(output: str) -> Load:
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return Load(**json.loads(lines[-1].removeprefix("RESULT ")))
