"""Shows progress on standard error: a bar on a terminal, else a plain line every ten seconds and one at the end."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from webapp.support import log

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY_SECONDS = 10.0


class ShowProgress(Protocol):
    """Shows how much is done."""

    def __call__(self, done: int, words: str, total: int | None = None, /) -> None:
        """``words`` say what was done; ``total`` is how much there is, where that was not known before."""


@contextmanager
def progress(doing: str, total: int | None, *, hidden: bool = False) -> Iterator[ShowProgress]:
    """A function that shows progress; ``total`` None: not known, or not yet. ``hidden``: it shows nothing.

    While a bar is shown, other output must go through ``sys.stdout`` and ``sys.stderr``, and then stands above it.
    """
    if hidden:
        yield _show_nothing
        return
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console, doing, total) as show:
            yield show
        return
    lines = _Lines(console, doing, total)
    try:
        yield lines
    finally:
        lines.print()


def _show_nothing(_done: int, _words: str, _total: int | None = None) -> None:
    pass


@contextmanager
def _bar(console: Console, doing: str, total: int | None) -> Iterator[ShowProgress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    # Standard output goes around the bar only where both are on the same terminal.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(doing, total=total, words="")

        def show(done: int, words: str, total: int | None = None) -> None:
            bar.update(task, completed=done, words=words, total=total)

        yield show


class _Lines:
    """Prints a line when ten seconds have passed since the last one, and what is left in the end."""

    def __init__(self, console: Console, doing: str, total: int | None) -> None:
        self._console = console
        self._doing = doing
        self._total = total
        self._begun_at = self._printed_at = time.monotonic()
        self._line = ""

    def __call__(self, done: int, words: str, total: int | None = None) -> None:
        total = total or self._total
        self._line = f"{self._doing}: {done}{f' of {total}' if total else ''} {words}"
        if total and 0 < done < total:
            left = (time.monotonic() - self._begun_at) * (total - done) / done
            self._line += f", {timedelta(seconds=round(left))} left"
        if time.monotonic() - self._printed_at >= _EVERY_SECONDS:
            self.print()

    def print(self) -> None:
        if self._line and not log.message(self._line):
            with suppress(OSError):  # a full disk: the command goes on
                self._console.print(self._line, markup=False, highlight=False, soft_wrap=True)
        self._printed_at, self._line = time.monotonic(), ""
