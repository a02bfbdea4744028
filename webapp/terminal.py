"""How long work shows itself: a bar on a terminal, and elsewhere a plain line every ten seconds. On standard error."""

from __future__ import annotations

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
    """A function to call with how much is done and a few words about it; ``total`` None is not known."""
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
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=total, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)


@contextmanager
def _lines(console: Console, doing: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    last = time.monotonic()

    def tell(done: int, words: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY_SECONDS:
            last = time.monotonic()
            of_all = "" if total is None else f" of {total}"
            console.print(f"{doing}: {done}{of_all} {words}".rstrip(), markup=False, highlight=False, soft_wrap=True)

    yield tell
