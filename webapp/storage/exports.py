"""Writes calls, or their reports, as CSV, JSON Lines, Parquet or an Excel workbook, row by row, in flat memory."""

from __future__ import annotations

import csv
import json
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from webapp.storage.models import calls, status_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from zoneinfo import ZoneInfo

    from sqlalchemy import Column, Table

    Write = Callable[[Iterable[dict[str, Any]], BinaryIO], None]

FORMATS = ("csv", "jsonl", "parquet")
EXCEL = "xlsx"
ALL_COLUMNS = tuple(calls.columns.keys())
INTERNAL_COLUMNS = ("registered_fields", "confirmed_fields", "lookup_backoff", "claimed_until")
"""What only the program itself needs."""
COLUMNS = tuple(name for name in ALL_COLUMNS if name not in INTERNAL_COLUMNS)
EXPORTED_REPORT_COLUMNS = tuple(status_reports.columns.keys())

_ROW_END = "\r\n"
"""Up to Python 3.11.8 csv quotes a carriage return in a value only where rows end with one, too.

So they do while they are made, and each row gets the line feed that is its end.
"""
_FORMULAS = ("=", "@", "\t", "\r")
_SIGNS = ("+", "-")


class NoParquet(Exception):
    """pyarrow, which Parquet needs, is not installed. Its text says how to get it."""


def columns_of(table: Table, names: Iterable[str]) -> tuple[Column[Any], ...]:
    """The table's columns with these names, in this order."""
    return tuple(table.columns[name] for name in names)


def writer_of(form: str, columns: Sequence[Column[Any]], zone: ZoneInfo) -> Write:
    """The function that writes these columns of rows, as the reader shows them; raises NoParquet.

    ``form`` is one of ``FORMATS``, or ``EXCEL``; times in ``zone`` are for people, and so for Excel alone.
    """
    if form == EXCEL:
        from webapp.storage import excel  # noqa: PLC0415 - few exports need it

        return partial(excel.write, columns=columns, zone=zone)
    if form == "parquet":
        require_parquet()
        from webapp.storage import parquet  # noqa: PLC0415 - pyarrow is optional, and takes a third of a second

        return partial(parquet.write, columns=columns)
    lines, names = {"csv": csv_lines, "jsonl": json_lines}[form], [column.name for column in columns]
    return lambda rows, target: target.writelines(lines(rows, names))


def require_parquet() -> None:
    """Raise NoParquet unless Parquet can be written."""
    try:
        from webapp.storage import parquet  # noqa: F401, PLC0415
    except ImportError as error:
        raise NoParquet(f"Parquet needs pyarrow ({error}): pip install 'esms-calls[parquet]'") from error


class _Echo:
    """A file for csv that gives each row back."""

    def write(self, row: str) -> str:
        return row


def csv_lines(rows: Iterable[dict[str, Any]], columns: Sequence[str], *, guarded: bool = False) -> Iterator[bytes]:
    """A header, then a line a row, in UTF-8 in every locale: names of campaigns are Vietnamese.

    ``guarded``: a text that a spreadsheet would take for a formula has an apostrophe before it; else values are exact.
    """
    writer = csv.writer(_Echo(), lineterminator=_ROW_END)
    cell = _guarded_cell if guarded else _csv_value
    yield _csv_line(writer, columns)
    for row in rows:
        yield _csv_line(writer, [cell(row[name]) for name in columns])


def last_csv_line(words: str) -> bytes:
    """A line of one cell, for people."""
    return _csv_line(csv.writer(_Echo(), lineterminator=_ROW_END), [words])


def _csv_line(writer: Any, cells: Sequence[Any]) -> bytes:
    return f"{writer.writerow(cells).removesuffix(_ROW_END)}\n".encode()


def _csv_value(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _guarded_cell(value: Any) -> Any:
    if isinstance(value, str) and value:
        # A number is none, with a sign either: +84901888484.
        is_formula = value.startswith(_FORMULAS) or (value.startswith(_SIGNS) and not value[1:].isdecimal())
        return f"'{value}" if is_formula else value
    return _csv_value(value)


def json_lines(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> Iterator[bytes]:
    """One object a line, as the API shows it."""
    for row in rows:
        shown = {name: row[name] for name in columns}
        if "payload" in shown:
            shown["payload"] = json.loads(shown["payload"])
        yield f"{json.dumps(shown, ensure_ascii=False)}\n".encode()
