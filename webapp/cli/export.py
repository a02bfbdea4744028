"""The command export: writes calls to a file or to standard output."""

from __future__ import annotations

import os
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from webapp.calls.outcome import OUTCOMES
from webapp.cli.context import open_reading_context
from webapp.cli.options import placed_since, placed_until
from webapp.cli.output import Screen, say
from webapp.storage.exports import ALL_COLUMNS, COLUMNS, EXCEL, FORMATS, INTERNAL_COLUMNS, NoParquet, writer_of
from webapp.storage.filters import CallFilter
from webapp.support.progress import progress
from webapp.support.spelling import do_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from webapp.storage.exports import Write
    from webapp.support.progress import ShowProgress

_SHOWN_EVERY = 1000
_NO_WORKBOOK = {".csv", ".tsv", ".txt", ".xls", ".json", ".jsonl", ".parquet"}


def _names(known: Sequence[str], given: Iterable[str]) -> tuple[str, ...]:
    """Names with commas between them, each once and in order; raises BadParameter for one that is not known."""
    names = dict.fromkeys(name.strip().lower() for part in given for name in part.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r:.60} is none of {', '.join(known)}{do_you_mean(name, known)}.")
    return tuple(names)


def _read_outcomes(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    return _names(OUTCOMES, given) or None


def _read_columns(_: click.Context, __: click.Parameter, given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not (columns := _names(ALL_COLUMNS, [given])):
        raise click.BadParameter("names no column.")
    return columns


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="CSV with a header; JSON Lines: one object a line; or Parquet, typed and small.  [default: csv]",
)
@click.option("--excel", is_flag=True, help="Write an Excel workbook, to be named ….xlsx, for people.")
@placed_since
@placed_until
@click.option("--campaign", metavar="NAME", help="Only calls of this campaign.")
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    metavar="A,B",
    callback=_read_outcomes,
    help=f"Only calls that ended so: {', '.join(OUTCOMES)}; may be repeated.",
)
@click.option("--columns", metavar="A,B,C", callback=_read_columns, help="Only these columns, in this order.")
@click.option("--all-columns", is_flag=True, help=f"Also what the program itself needs: {', '.join(INTERNAL_COLUMNS)}.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write to this file, whole or not at all; - is standard output.  [default: -]",
)
def export(
    *,
    form: str | None,
    excel: bool,
    since: datetime | None,
    until: datetime | None,
    campaign: str | None,
    outcomes: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
    all_columns: bool,
    output: Path | None,
) -> None:
    """Write calls as CSV, JSON Lines, Parquet or an Excel workbook, oldest placed first.

    CSV, JSON Lines and Parquet are for programs: times are in UTC, prices have four decimals, unknown values are empty
    (CSV) or null. Do not open the CSV in Excel, which makes numbers, dates and formulas of its values: --excel is for
    that. It keeps Vietnamese text, ids and phone numbers as text, has times in TIME_ZONE, and no formula.

    \b
    Example:
      esms-calls export --excel --since yesterday --outcome unanswered,rejected --output calls.xlsx
    """  # noqa: D301 - click wants the control character
    if excel and form:
        raise click.UsageError("--excel is a format of its own: it does not go together with --format.")
    if columns and all_columns:
        raise click.UsageError("--columns and --all-columns do not go together.")
    output = None if output == Path("-") else output
    if excel and output and output.suffix.lower() in _NO_WORKBOOK:
        raise click.BadParameter("Excel opens a workbook only if its name ends with .xlsx.", param_hint="--output")
    form = EXCEL if excel else form or "csv"
    columns = columns or (ALL_COLUMNS if all_columns else COLUMNS)
    wanted = CallFilter(since=since, until=until, campaign=campaign, outcomes=outcomes)
    with open_reading_context() as context:
        write = _writer(form, columns, context.settings.time_zone)
        with _target(output, form) as target:
            if form in {"parquet", EXCEL} and target.isatty():
                raise click.UsageError("This format is not for a terminal: use --output, or redirect standard output.")
            counter = _Counter(context.reader.count(wanted))
            calls = closing(context.reader.export(wanted, columns))
            with calls as found, progress("exporting", counter.total, hidden=target.isatty()) as show:
                write(counter.counted(found, show), target)
    if output:
        say(f"{counter.done} calls written to {output}", err=True)


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


def _writer(form: str, columns: Sequence[str], zone: ZoneInfo) -> Write:
    try:
        return writer_of(form, columns, zone)
    except NoParquet as error:
        raise click.BadParameter(str(error), param_hint="--format") from error


@contextmanager
def _target(output: Path | None, form: str) -> Iterator[BinaryIO]:
    """Standard output, or a file that is replaced as a whole or not at all; a device or pipe is written directly."""
    if output is None:
        yield cast("BinaryIO", Screen(is_json=form == "jsonl")) if sys.stdout.isatty() else sys.stdout.buffer
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
