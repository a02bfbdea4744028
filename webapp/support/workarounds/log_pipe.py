"""A log handler that never blocks on a pipe whose reader has stopped.

``logging.StreamHandler`` waits when the pipe is full: a log reader that hangs would stop the server. Needed until the
standard library can write to a stream without waiting; no issue of CPython asks for it yet.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class PipeHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error. Lines that a full pipe does not take are lost, and counted."""

    def __init__(self, *, plain: bool = True) -> None:
        """Write to standard error as it is now. ``plain``: the line that counts lost ones is written as it is."""
        pipe = _pipe_without_waiting(2)
        super().__init__(sys.stderr if pipe is None else _LossyPipe(pipe, str if plain else self._formatted))

    def _formatted(self, words: str) -> str:
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, words, None, None))


class _LossyPipe:
    """A pipe that takes a line only if it has space for it now."""

    def __init__(self, pipe: int, as_line: Callable[[str], str]) -> None:
        self._pipe = pipe
        self._as_line = as_line
        self._lost = 0

    def write(self, line: str) -> None:
        before = ""
        if self._lost:
            before = self._as_line(f"{self._lost} lines of this log are lost: the pipe was full") + "\n"
        try:
            os.write(self._pipe, f"{before}{line}".encode(errors="backslashreplace"))
        except BlockingIOError:
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """Do nothing: every line is written at once."""


@cache
def _pipe_without_waiting(number: int) -> int | None:
    """A second, non-blocking opening of the pipe; None if it is none. Other processes share the first opening."""
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        pass
    return None
