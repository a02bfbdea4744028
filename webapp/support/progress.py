"""How long work shows itself: a bar on a terminal, elsewhere a plain line every ten seconds and one at the end.

On standard error, so that it never mixes with what a command puts out.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY_SECONDS = 10.0


class ShowProgress(Protocol):
    """Takes how much is done, a few words about it, and how much there is, where that was not known before."""

    def __call__(self, done: int, words: str, total: int | None = None) -> None:
        """Show it, now or soon."""


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[ShowProgress]:
    """A function to call with how much is done and a few words about it; ``total`` None is not known (yet).

    While a bar is shown, what else is written must go through ``sys.stdout`` and ``sys.stderr``, to come out above it.
    """
    console = Console(stderr=True)
    with _bar(console, doing, total) if console.is_terminal else _lines(console, doing, total) as tell:
        yield tell


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
    # Redirected output stays redirected; only what goes to the same terminal has to go around the bar.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(doing, total=total, words="")

        def tell(done: int, words: str, total: int | None = None) -> None:
            bar.update(task, completed=done, words=words, total=total)

        yield tell


@contextmanager
def _lines(console: Console, doing: str, total: int | None) -> Iterator[ShowProgress]:
    begun_at = shown_at = time.monotonic()
    unshown, known = "", total

    def show() -> None:
        nonlocal shown_at, unshown
        if unshown:
            console.print(unshown, markup=False, highlight=False, soft_wrap=True)
        shown_at, unshown = time.monotonic(), ""

    def tell(done: int, words: str, total: int | None = None) -> None:
        nonlocal unshown
        of_all = total or known
        unshown = f"{doing}: {done}{f' of {of_all}' if of_all else ''} {words}"
        if of_all and 0 < done < of_all:
            left = (time.monotonic() - begun_at) * (of_all - done) / done
            unshown += f", {timedelta(seconds=round(left))} left"
        if time.monotonic() - shown_at >= _EVERY_SECONDS:
            show()

    try:
        yield tell
    finally:
        show()


def printable(text: str) -> str:
    """Text as it came from outside, fit for a terminal: nothing in it moves the cursor, or hides."""
    return text if text.isascii() and text.isprintable() else ascii(text)
