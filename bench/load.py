"""Load on a receiver: as many callbacks as it can answer (wrk), or a constant rate of them."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from bench.programs import ROOT

CALLBACK_TOKEN = "callback-token-of-the-benchmark"  # noqa: S105 - of servers that run for seconds
API_TOKEN = "api-token-of-the-benchmark"  # noqa: S105 - likewise
_SCRIPT = Path(__file__).with_name("callback.lua")
_WRK_TIMEOUT = "30s"


class Missing(Exception):
    """A program that the benchmark runs is not installed. The message says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Result of a load: ``answers`` with any status, ``refused`` of them not 200; ``broken``: no answer at all."""

    answers: int
    seconds: float
    refused: int
    broken: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Callbacks answered 200, a second."""
        return self.accepted / self.seconds

    @property
    def accepted(self) -> int:
        """Callbacks answered 200."""
        return self.answers - self.refused


def find(program: str, package: str) -> str:
    """The path of a program; raises Missing, which names the Debian package."""
    if path := shutil.which(program):
        return path
    raise Missing(f"{program} is not installed; on Debian: apt-get install {package}")


def callback_url(base: str, reference_id: str | None = None) -> str:
    """The callback URL of a receiver; with a call's id also the documented parameters."""
    url = f"{base}/esms/callback/{CALLBACK_TOKEN}"
    if reference_id is None:
        return url
    parameters = "CallDuration=0&CallStatus=&Ivr=&Price=0.0000&SentResult=0&CID=02871002454&SendStatus=5"
    return f"{url}?ReferenceId={reference_id}&{parameters}"


def new_call() -> str:
    """A ReferenceId that was never used before."""
    return str(uuid.uuid4())


def highest_rate(base: str, *, seconds: int, connections: int) -> Load:
    """Callbacks about new calls; each connection sends the next one when the last one is answered."""
    threads = min(2, connections)
    command = [find("wrk", "wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", _WRK_TIMEOUT]
    seed = str(secrets.randbits(48))
    arguments = ["-s", str(_SCRIPT), callback_url(base), "--", seed]
    return _read(subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout)


def start_constant_rate(
    base: str, *, rate: float, seconds: float, connections: int, warm_up: float = 0.0, accepted: Path | None = None
) -> subprocess.Popen[str]:
    """Start a load of evenly spaced callbacks, however long answers take; ``accepted`` gets the ids answered 200.

    Callbacks of the first ``warm_up`` seconds, which come before the others, are not in the result.
    """
    numbers = (rate, seconds, connections, warm_up)
    command = [sys.executable, "-m", "bench.steady", base, *map(str, numbers)]
    return subprocess.Popen(
        [*command, str(accepted)] if accepted else command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def wait_for(load: subprocess.Popen[str]) -> Load:
    """The result of a load at a constant rate, once it has ended."""
    output, _ = load.communicate()
    return _read(output)


def _read(output: str) -> Load:
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return Load(**json.loads(lines[-1].removeprefix("RESULT ")))
