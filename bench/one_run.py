"""One ``esms-calls reconcile`` in a process of its own, which begins at a word and tells in the end what it took.

``python -m bench.one_run OPTION…`` prints a line when it is ready, waits for one, and prints a ``Took`` as JSON.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from bench.load import ROOT
from webapp.cli.main import main as esms_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What a run took: wall and processor seconds, bytes at its peak, statements and transactions; and its summary."""

    seconds: float
    processor: float
    peak: int
    statements: int
    transactions: int
    run: Mapping[str, Any]

    @property
    def checked(self) -> int:
        """Look-ups that it charged."""
        return int(self.run["checked"])


def together(options: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[Took]:
    """So many runs that begin at the same moment; raises RuntimeError if one of them is not done in the end."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.one_run", *options],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    try:
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        return [_end(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _end(process: subprocess.Popen[str]) -> Took:
    told, complaints = process.communicate()
    took = Took(**json.loads(told)) if told else None
    if took is None or took.run.get("outcome") != "done":
        raise RuntimeError(f"a run ended otherwise: {told}\n{complaints}")
    return took


class _Counting:
    """Counts what goes to the database; the beginning and the end of a transaction are no statements."""

    def __init__(self) -> None:
        self.statements = self.transactions = 0
        event.listen(Engine, "before_cursor_execute", self._executes)
        event.listen(Engine, "commit", self._commits)

    def _executes(self, *arguments: Any) -> None:
        self.statements += not arguments[2].startswith("BEGIN")

    def _commits(self, _connection: object) -> None:
        self.transactions += 1


def _peak() -> int:
    """Not of getrusage: there a process inherits what its parent held when it was started."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Run it."""
    counting, printed = _Counting(), io.StringIO()
    sys.argv = ["esms-calls", "reconcile", "--json", *sys.argv[1:]]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began, used = time.monotonic(), time.process_time()
    with redirect_stdout(printed), suppress(SystemExit):
        esms_calls()
    took = Took(
        seconds=time.monotonic() - began,
        processor=time.process_time() - used,
        peak=_peak(),
        statements=counting.statements,
        transactions=counting.transactions,
        run=json.loads(printed.getvalue() or "{}"),
    )
    sys.stdout.write(json.dumps(asdict(took)))


if __name__ == "__main__":
    main()
