"""Calls or reports as an Excel workbook, for people: text stays text, times are local, and nothing is a formula.

A CSV cannot be that: Excel makes numbers, dates and formulas of its values, drops the zero of 0901888484, and takes the
delimiter and the encoding from the settings of the machine.
"""

from __future__ import annotations

from datetime import datetime
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from sqlalchemy import Boolean, Integer
from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError

from webapp.storage.types import Moment, Money
from webapp.support.yield_to_others import in_a_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from zoneinfo import ZoneInfo

    from sqlalchemy import Column
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

ROWS = 1_048_576
"""The rows of a sheet, at most, its header included; further rows are on further sheets."""
LONGEST_TEXT = 32_767
"""Letters of a cell, at most: what follows is left out."""
_FIRST_YEAR = 1900
"""Excel knows no earlier times."""
_FORMATS = {
    "header": {"bold": True, "bottom": 1},
    "text": {"num_format": "@"},
    "time": {"num_format": "dd/mm/yyyy hh:mm:ss"},
    "price": {"num_format": "#,##0.0000"},
}
_WIDTHS = {"id": 38, "reference_id": 38, "esms_id": 38, "campaign": 20}
_COLUMN_WIDTH = 19


def write(rows: Iterable[dict[str, Any]], target: BinaryIO, *, columns: Sequence[Column[Any]], zone: ZoneInfo) -> None:
    """Write these columns of rows, as they are shown, with times in ``zone``; what waits is in a temporary folder."""
    with TemporaryDirectory(prefix="esms-calls-") as folder:
        book = Workbook(_Target(target), {"constant_memory": True, "tmpdir": folder, "use_zip64": True})
        sheets = _Sheets(book, columns, zone)
        try:
            for row in rows:
                sheets.write(row)
            in_a_thread(book.close)
        except FileCreateError as error:
            raise error.args[0] from None  # an OSError
        finally:
            sheets.close()


class _Target:
    """A file that takes no more once it has failed: a ``ZipFile`` that is cleared away would write its end, too."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._file, name)

        def call(*args: Any) -> Any:
            self._begun |= name == "write"
            try:
                return method(*args)
            except OSError:
                # Not before the first byte: whether the file has positions is found out by trying.
                if self._begun:
                    self._file = _Nowhere()
                raise

        return call


class _Nowhere:
    """Takes all bytes, and keeps none."""

    def __init__(self) -> None:
        self._position = 0

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def write(self, content: bytes) -> int:
        self._position += len(content)
        return len(content)

    def flush(self) -> None:
        """Nothing waits."""


class _Sheets:
    """The sheets of a workbook: as many as the rows need, each with the header."""

    def __init__(self, book: Workbook, columns: Sequence[Column[Any]], zone: ZoneInfo) -> None:
        self._book = book
        self._columns = [(column.name, column.type) for column in columns]
        self._name = {"status_reports": "reports"}.get(columns[0].table.name, columns[0].table.name)
        self._zone = zone
        self._formats: dict[str, Format] = {name: book.add_format(values) for name, values in _FORMATS.items()}
        self._number = 0
        self._sheet = self._add_sheet()

    def write(self, row: dict[str, Any]) -> None:
        """Write one row."""
        if self._rows == ROWS:
            self._sheet = self._add_sheet()
        for place, (name, kind) in enumerate(self._columns):
            if row[name] is not None:
                self._write_cell(place, kind, row[name])
        self._rows += 1

    def close(self) -> None:
        """Close the files in which sheets wait, also when the workbook was not written."""
        for sheet in self._book.worksheets():
            sheet._opt_close()  # noqa: SLF001 - xlsxwriter does it only after the workbook was written

    def _add_sheet(self) -> Worksheet:
        self._number += 1
        sheet = self._book.add_worksheet(self._name if self._number == 1 else f"{self._name} {self._number}")
        sheet.freeze_panes(1, 1)
        for place, (name, _) in enumerate(self._columns):
            sheet.set_column(place, place, _WIDTHS.get(name, _COLUMN_WIDTH))
            sheet.write_string(0, place, name, self._formats["header"])
        self._rows = 1
        return sheet

    def _write_cell(self, place: int, kind: Any, value: Any) -> None:
        at = self._rows, place
        if isinstance(kind, Moment) and (local := self._local(value)):
            self._sheet.write_datetime(*at, local, self._formats["time"])
        elif isinstance(kind, Money):
            self._sheet.write_number(*at, float(value), self._formats["price"])
        elif isinstance(kind, Boolean):
            self._sheet.write_boolean(*at, value)
        elif isinstance(kind, Integer):
            self._sheet.write_number(*at, value)
        else:
            self._sheet.write_string(*at, value[:LONGEST_TEXT], self._formats["text"])

    def _local(self, shown: str) -> datetime | None:
        """The time by the clocks of the zone; None if Excel has none such."""
        try:
            local = datetime.fromisoformat(shown).astimezone(self._zone).replace(tzinfo=None)
        except OverflowError:
            return None
        return local if local.year >= _FIRST_YEAR else None
