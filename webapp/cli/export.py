"""The command export: writes calls to a file or to standard output."""

from __future__ import annotations

import os
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from webapp.cli.context import open_context
from webapp.cli.options import Time
from webapp.storage.exports import FORMATS, NoParquet, writer_of
from webapp.storage.filters import CallFilter
from webapp.support.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from webapp.storage.exports import Write
    from webapp.support.progress import ShowProgress

_SHOWN_EVERY = 1000


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="csv",
    show_default=True,
    help="CSV with a header; JSON Lines: one object a line; or Parquet, typed and small.",
)
@click.option("--since", type=Time(), help="Only calls placed at this time or later, such as 2026-11-23.")
@click.option("--until", type=Time(), help="Only calls placed before this time.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write to this file, whole or not at all; - is standard output.  [default: -]",
)
def export(form: str, since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Write calls as CSV, JSON Lines or Parquet, oldest placed first, to standard output or a file.

    Times are in UTC, prices have four decimals, and unknown values are empty (CSV) or null. --since and --until take
    a date or a time in ISO 8601; without a zone it is in TIME_ZONE.
    """
    output = None if output == Path("-") else output
    write, wanted = _writer(form), CallFilter(since=since, until=until)
    with open_context(writes=False) as context, _target(output) as target:
        if form == "parquet" and target.isatty():
            raise click.UsageError("Parquet is not for a terminal: use --output, or redirect standard output.")
        counter = _Counter(context.reader.count(wanted))
        calls = closing(context.reader.export(wanted))
        with calls as found, progress("exporting", counter.total, hidden=target.isatty()) as show:
            write(counter.counted(found, show), target)
    if output:
        click.echo(f"{counter.done} calls written to {output}", err=True)


class _Counter:
    """Counts the calls as they are written, and shows how many."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def counted(self, calls: Iterable[dict[str, Any]], show: ShowProgress) -> Iterator[dict[str, Any]]:
        for call in calls:
            yield call
            self.done += 1
            if self.done % _SHOWN_EVERY == 0 or self.done == self.total:
                show(self.done, "calls")


def _writer(form: str) -> Write:
    try:
        return writer_of(form)
    except NoParquet as error:
        raise click.BadParameter(str(error), param_hint="--format") from error


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is replaced as a whole or not at all; a device or pipe is written directly."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    path = output.resolve()
    whole = path.is_file() or not path.exists()
    draft = path.with_name(f".{path.name}.{os.getpid()}") if whole else path
    try:
        file = draft.open("wb")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from None
    try:
        with file:
            yield file
        if whole:
            draft.replace(path)
    except BaseException:
        if whole:
            draft.unlink()
        raise
