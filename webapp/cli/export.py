"""The command export: writes calls, or their reports, to a file, a folder or standard output."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from zoneinfo import ZoneInfo

import click

from webapp.calls.outcome import OUTCOMES
from webapp.cli.context import open_reading_context
from webapp.cli.options import placed_since, placed_until
from webapp.cli.output import Screen, say
from webapp.storage.exports import (
    ALL_COLUMNS,
    COLUMNS,
    EXCEL,
    EXPORTED_REPORT_COLUMNS,
    FORMATS,
    INTERNAL_COLUMNS,
    NoParquet,
    columns_of,
    require_parquet,
    writer_of,
)
from webapp.storage.filters import CallFilter
from webapp.storage.models import calls, status_reports
from webapp.storage.time_zone import zone_of
from webapp.support import files
from webapp.support.progress import progress
from webapp.support.spelling import do_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from webapp.cli.context import CliContext
    from webapp.storage.reader import Reader
    from webapp.support.progress import ShowProgress

_SHOWN_EVERY = 1000
_NO_WORKBOOK = {".csv", ".tsv", ".txt", ".xls", ".json", ".jsonl", ".parquet"}


def _split_names(known: Sequence[str], given: Iterable[str]) -> tuple[str, ...]:
    """Names with commas between them, each once and in order; raises BadParameter for one that is not known."""
    names = dict.fromkeys(name.strip().lower() for part in given for name in part.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r:.60} is none of {', '.join(known)}{do_you_mean(name, known)}.")
    return tuple(names)


def _read_outcomes(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    return _split_names(OUTCOMES, given) or None


def _columns_to_write(given: str | None, *, reports: bool, all_columns: bool) -> tuple[str, ...]:
    """The columns to write."""
    known = EXPORTED_REPORT_COLUMNS if reports else ALL_COLUMNS
    if given is None:
        return known if all_columns or reports else COLUMNS
    try:
        names = _split_names(known, [given])
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--columns") from None
    if not names:
        raise click.BadParameter("names no column.", param_hint="--columns")
    return names


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
@click.option("--reports", is_flag=True, help="Write the reports of these calls: all that eSMS ever said about them.")
@click.option("--columns", "names", metavar="A,B,C", help="Only these columns, in this order.")
@click.option("--all-columns", is_flag=True, help=f"Also what the program itself needs: {', '.join(INTERNAL_COLUMNS)}.")
@click.option(
    "--output",
    type=click.Path(allow_dash=True, path_type=Path),
    help="Write to this file, whole or not at all; - is standard output. Parquet: a folder, too.  [default: -]",
)
@click.option(
    "--by-month",
    is_flag=True,
    help="Parquet: make --output a folder with a file for each local month. So is every folder that exists.",
)
def export(
    *,
    form: str | None,
    excel: bool,
    since: datetime | None,
    until: datetime | None,
    campaign: str | None,
    outcomes: tuple[str, ...] | None,
    reports: bool,
    names: str | None,
    all_columns: bool,
    output: Path | None,
    by_month: bool,
) -> None:
    """Write calls as CSV, JSON Lines, Parquet or an Excel workbook, oldest placed first.

    CSV, JSON Lines and Parquet are for programs: times are in UTC, prices have four decimals, unknown values are empty
    (CSV) or null. Do not open the CSV in Excel, which makes numbers, dates and formulas of its values: --excel is for
    that. It keeps Vietnamese text, ids and phone numbers as text, has times in TIME_ZONE, and no formula.

    With --by-month a folder has a Parquet file for each local month, such as local_month=2026-11/calls.parquet. Each is
    replaced as a whole when the run has ended well; months outside --since and --until stay as they are. A folder that
    holds anything else is refused. With --reports the months are those in which the calls were placed.

    \b
    Examples:
      esms-calls export --excel --since yesterday --outcome unanswered,rejected --output calls.xlsx
      esms-calls export --by-month --since 2026-11-01 --output lake/calls
      esms-calls export --by-month --reports --output lake/reports
    """  # noqa: D301 - click wants the control character
    if excel and form:
        raise click.UsageError("--excel is a format of its own: it does not go together with --format.")
    if names and all_columns:
        raise click.UsageError("--columns and --all-columns do not go together.")
    output = None if output == Path("-") else output
    if excel and output and output.suffix.lower() in _NO_WORKBOOK:
        raise click.BadParameter("Excel opens a workbook only if its name ends with .xlsx.", param_hint="--output")
    form = EXCEL if excel else form or ("parquet" if by_month else "csv")
    wanted = CallFilter(since=since, until=until, campaign=campaign, outcomes=outcomes)
    columns = _columns_to_write(names, reports=reports, all_columns=all_columns)
    is_folder = _is_folder(output, form, by_month=by_month)
    with open_reading_context() as context:
        rows = _Rows(context.reader, wanted, columns, reports=reports)
        if is_folder and output:
            written = _write_folder(rows, output, context)
        else:
            written = _write_file(rows, output, form, context.settings.time_zone)
    if output:
        say(f"{rows.done} {rows.name} written to {output}{written}", err=True)


def _is_folder(output: Path | None, form: str, *, by_month: bool) -> bool:
    exists = output is not None and output.is_dir()
    if by_month and (output is None or form != "parquet"):
        raise click.UsageError("--by-month is for Parquet, and needs --output with the name of a folder.")
    if exists and form != "parquet":
        raise click.BadParameter(f"{output} is a directory: name a file, or write Parquet.", param_hint="--output")
    return by_month or exists


def _write_file(rows: _Rows, output: Path | None, form: str, zone: ZoneInfo) -> str:
    try:
        write = writer_of(form, rows.columns, zone)
    except NoParquet as error:
        raise click.BadParameter(str(error), param_hint="--format") from error
    with _target(output, form) as target:
        if form in {"parquet", EXCEL} and target.isatty():
            raise click.UsageError("This format is not for a terminal: use --output, or redirect standard output.")
        with rows.counted(hidden=target.isatty()) as found:
            write(found, target)
    return ""


def _write_folder(rows: _Rows, output: Path, context: CliContext) -> str:
    try:
        require_parquet()
    except NoParquet as error:
        raise click.BadParameter(str(error), param_hint="--format") from error
    from webapp.storage.months import MonthsFolder, NoMonth, UnfitFolder  # noqa: PLC0415 - pyarrow is optional

    with context.database.snapshot() as connection:
        zone = ZoneInfo(zone_of(connection))
    filters = {"campaign": rows.wanted.campaign, "outcomes": rows.wanted.outcomes}
    folder = MonthsFolder(output, rows.name, rows.columns, zone, filters)
    try:
        with rows.counted() as found:
            months = folder.write(found, rows.wanted.since, rows.wanted.until)
    except UnfitFolder as error:
        raise click.BadParameter(str(error), param_hint="--output") from None
    except NoMonth as error:
        raise click.BadParameter(str(error), param_hint="--since and --until") from None
    except OSError as error:
        raise click.FileError(str(error.filename or output), error.strerror) from None
    return f": {months} month{'' if months == 1 else 's'} of {zone.key}"


class _Rows:
    """The rows to be written: counts them while they are, and shows how many."""

    def __init__(self, reader: Reader, wanted: CallFilter, names: Sequence[str], *, reports: bool) -> None:
        self.wanted = wanted
        self.name = "reports" if reports else "calls"
        self.columns = columns_of(status_reports if reports else calls, names)
        self.done = 0
        self._names = names
        self._count = reader.count_reports if reports else reader.count
        self._export = reader.export_reports if reports else reader.export
        self._total = 0

    @contextmanager
    def counted(self, *, hidden: bool = False) -> Iterator[Iterator[dict[str, Any]]]:
        """The rows, of one moment."""
        self._total = self._count(self.wanted)
        # Months are those of placed_at, also where it is not written.
        names = self._names if self.name == "reports" else dict.fromkeys([*self._names, "placed_at"])
        rows = closing(self._export(self.wanted, tuple(names)))
        with rows as found, progress("exporting", self._total, hidden=hidden) as show:
            yield self._counting(found, show)

    def _counting(self, found: Iterable[dict[str, Any]], show: ShowProgress) -> Iterator[dict[str, Any]]:
        for row in found:
            yield row
            self.done += 1
            if self.done % _SHOWN_EVERY == 0 or self.done == self._total:
                show(self.done, self.name)


@contextmanager
def _target(output: Path | None, form: str) -> Iterator[BinaryIO]:
    """Standard output, or a file that is replaced as a whole or not at all; a device or pipe is written directly."""
    if output is None:
        yield cast("BinaryIO", Screen(is_json=form == "jsonl")) if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.flush()
        return
    path = output.resolve()
    whole = path.is_file() or not path.exists()
    try:
        draft, file = files.new_draft(path.parent) if whole else (path, path.open("wb"))
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
