"""Writes calls as CSV, JSON Lines, Parquet or an Excel workbook, row by row, in flat memory."""

from __future__ import annotations

import csv
import json
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from webapp.storage.models import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from zoneinfo import ZoneInfo

    Write = Callable[[Iterable[dict[str, Any]], BinaryIO], None]

FORMATS = ("csv", "jsonl", "parquet")
EXCEL = "xlsx"
ALL_COLUMNS = tuple(calls.columns.keys())
INTERNAL_COLUMNS = ("registered_fields", "confirmed_fields", "lookup_backoff", "claimed_until")
"""What only the program itself needs."""
COLUMNS = tuple(name for name in ALL_COLUMNS if name not in INTERNAL_COLUMNS)


class NoParquet(Exception):
    """pyarrow, which Parquet needs, is not installed. Its text says how to get it."""


def writer_of(form: str, columns: Sequence[str], zone: ZoneInfo) -> Write:
    """The function that writes these columns of calls, as the reader shows them; raises NoParquet.

    ``form`` is one of ``FORMATS``, or ``EXCEL``; times in ``zone`` are for people, and so for Excel alone.
    """
    if form == EXCEL:
        from webapp.storage import excel  # noqa: PLC0415 - few exports need it

        return partial(excel.write, columns=columns, zone=zone)
    if form != "parquet":
        return partial({"csv": _write_csv, "jsonl": _write_jsonl}[form], columns=columns)
    try:
        from webapp.storage import parquet  # noqa: PLC0415 - pyarrow is optional, and takes a third of a second
    except ImportError as error:
        raise NoParquet(f"Parquet needs pyarrow ({error}): pip install 'esms-calls[parquet]'") from error
    return partial(parquet.write, columns=columns)


class _CsvRows:
    """Writes the rows that csv makes, in UTF-8 in every locale: names of campaigns are Vietnamese.

    Up to Python 3.11.8 csv quotes a carriage return in a value only where rows end with one, too. So they do, and here
    each row gets the line feed that is its end.
    """

    MADE_END = "\r\n"

    def __init__(self, target: BinaryIO) -> None:
        self._target = target

    def write(self, row: str) -> int:
        return self._target.write(f"{row.removesuffix(self.MADE_END)}\n".encode())


def _write_csv(rows: Iterable[dict[str, Any]], target: BinaryIO, *, columns: Sequence[str]) -> None:
    writer = csv.writer(_CsvRows(target), lineterminator=_CsvRows.MADE_END)
    writer.writerow(columns)
    writer.writerows([_cell(call[name]) for name in columns] for call in rows)


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _write_jsonl(rows: Iterable[dict[str, Any]], target: BinaryIO, *, columns: Sequence[str]) -> None:
    chosen = ({name: call[name] for name in columns} for call in rows)
    target.writelines(f"{json.dumps(call, ensure_ascii=False)}\n".encode() for call in chosen)
