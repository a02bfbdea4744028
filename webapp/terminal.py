"""How long work shows itself: a bar on a terminal, elsewhere a plain line every ten seconds and one at the end.

On standard error, so that it never mixes with what a command puts out.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EVERY_SECONDS = 10.0


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A function to call with how much is done and a few words about it; ``total`` None is not known.

    While a bar is shown, what else is written must go through ``sys.stdout`` and ``sys.stderr``, to come out above it.
    """
    console = Console(stderr=True)
    with _bar(console, doing, total) if console.is_terminal else _lines(console, doing, total) as tell:
        yield tell


@contextmanager
def _bar(console: Console, doing: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
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
        yield lambda done, words: bar.update(task, completed=done, words=words)


@contextmanager
def _lines(console: Console, doing: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    shown_at, unshown = time.monotonic(), ""

    def show() -> None:
        nonlocal shown_at, unshown
        if unshown:
            console.print(unshown, markup=False, highlight=False, soft_wrap=True)
        shown_at, unshown = time.monotonic(), ""

    def tell(done: int, words: str) -> None:
        nonlocal unshown
        of_all = "" if total is None else f" of {total}"
        unshown = f"{doing}: {done}{of_all} {words}"
        if time.monotonic() - shown_at >= _EVERY_SECONDS:
            show()

    try:
        yield tell
    finally:
        show()
