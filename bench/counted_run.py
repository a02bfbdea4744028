"""One ``esms-calls reconcile`` in this process, with what it took: time, memory, statements and transactions.

``python -P counted_run.py MODULE FUNCTION OPTION…`` prints a line when it is ready, waits for a line, runs, and prints
the figures as JSON. It imports nothing of the benchmark, so that it can run an older checkout (PYTHONPATH).
"""

from __future__ import annotations

import io
import json
import sys
import time
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


class _Counter:
    """Counts what is sent to the database; BEGIN is no statement."""

    def __init__(self) -> None:
        self.statements = self.transactions = 0
        event.listen(Engine, "before_cursor_execute", self._count_statement)
        event.listen(Engine, "commit", self._count_commit)

    def _count_statement(self, *arguments: Any) -> None:
        self.statements += not arguments[2].startswith("BEGIN")

    def _count_commit(self, _connection: object) -> None:
        self.transactions += 1


def _peak_bytes() -> int:
    """The most memory so far. Not of getrusage: there a process inherits its parent's peak."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Run, and print the figures."""
    module, function, *options = sys.argv[1:]
    esms_calls = getattr(import_module(module), function)
    counter, printed = _Counter(), io.StringIO()
    sys.argv = ["esms-calls", "reconcile", "--json", *options]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started, used = time.monotonic(), time.process_time()
    with redirect_stdout(printed), suppress(SystemExit):
        esms_calls()
    figures = {
        "seconds": time.monotonic() - started,
        "processor": time.process_time() - used,
        "peak": _peak_bytes(),
        "statements": counter.statements,
        "transactions": counter.transactions,
        "summary": json.loads(printed.getvalue() or "{}"),
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
