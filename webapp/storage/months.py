"""Writes a folder of Parquet files, one for each local month: ``local_month=2026-11/calls.parquet``.

A file has its name only once it is whole. A repeated run replaces the months that it is about, and no others.
Needs pyarrow, so it is imported only to write Parquet.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from pyarrow.parquet import read_schema
from sqlalchemy import Column

from webapp.storage import parquet
from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FOLDER = re.compile(r"local_month=([0-9]{4}-[0-9]{2})")
_DRAFT = ".unfinished"
_KEY = "esms_calls"


class UnfitFolder(Exception):
    """The folder cannot be written to. Its text says why, and what to do."""


class NoMonth(ValueError):
    """A time is not the beginning of a local month."""


@dataclass(frozen=True, slots=True)
class MonthsFolder:
    """A folder with a file ``<name>.parquet`` for each local month of ``zone``.

    ``filters`` says which rows the files have; a folder holds one kind of them.
    """

    path: Path
    name: str
    columns: Sequence[Column[Any]]
    zone: ZoneInfo
    filters: dict[str, Any]

    def write(self, rows: Iterable[dict[str, Any]], since: datetime | None, until: datetime | None) -> int:
        """Write rows in the order of ``placed_at``, which each has; the number of months written.

        They are all rows placed from ``since`` on and before ``until``, which begin local months (else NoMonth). Months
        between them that have no rows are removed. Raises UnfitFolder, and OSError; then the months are as they were.
        """
        first, behind = (None if bound is None else self._month_that_begins(bound) for bound in (since, until))
        with self._locked():
            before = self._check()
            drafts: list[Path] = []
            try:
                self._write_drafts(rows, drafts)
            except BaseException:
                for draft in drafts:
                    draft.unlink(missing_ok=True)
                    _remove_if_empty(draft.parent)
                raise
            written = [draft.with_name(f"{self.name}.parquet") for draft in drafts]
            for draft, path in zip(drafts, written, strict=True):
                draft.replace(path)
            for path in before.difference(written):
                month = path.parent.name.partition("=")[2]
                if (first is None or month >= first) and (behind is None or month < behind):
                    path.unlink()
                    _remove_if_empty(path.parent)
        return len(written)

    def _write_drafts(self, rows: Iterable[dict[str, Any]], drafts: list[Path]) -> None:
        schema = parquet.schema_of(self.columns, **{_KEY: self._kind()})
        for month, placed_in_it in groupby(rows, lambda row: self._month(datetime.fromisoformat(row["placed_at"]))):
            folder = self.path / f"local_month={month}"
            folder.mkdir(exist_ok=True)
            draft, file = files.new_draft(folder, prefix=f"{self.name}.parquet.", suffix=_DRAFT)
            drafts.append(draft)
            with file:
                parquet.write_as(placed_in_it, file, schema)

    def _kind(self) -> str:
        names = [column.name for column in self.columns]
        return json.dumps({"rows": self.name, "columns": names, "time_zone": self.zone.key, **self.filters})

    def _month(self, moment: datetime) -> str:
        # The first and last days of all times have no local time in every zone.
        with suppress(OverflowError):
            moment = moment.astimezone(self.zone)
        return f"{moment.year:04}-{moment.month:02}"

    def _month_that_begins(self, moment: datetime) -> str:
        local = moment.astimezone(self.zone)
        if local != local.replace(day=1, hour=0, minute=0, second=0, microsecond=0):
            raise NoMonth(
                f"{local:%Y-%m-%d %H:%M:%S} is not the beginning of a month in {self.zone.key}, and months are "
                f"replaced as a whole: give {local:%Y-%m}-01, or none."
            )
        return self._month(moment)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UnfitFolder(f"{self.path}: another export writes to this folder now.") from None
        finally:
            os.close(handle)

    def _check(self) -> set[Path]:
        """The files of months that are there, without drafts of a run that was killed; raises UnfitFolder."""
        found = set()
        for folder in sorted(self.path.iterdir()):
            if folder.is_symlink() or not folder.is_dir() or not _FOLDER.fullmatch(folder.name):
                raise self._foreign(folder)
            for path in sorted(folder.iterdir()):
                if path.name == f"{self.name}.parquet":
                    self._check_kind(path)
                    found.add(path)
                elif not (path.name.startswith(f"{self.name}.parquet.") and path.suffix == _DRAFT):
                    raise self._foreign(path)
        for draft in self.path.glob(f"*/*{_DRAFT}"):
            draft.unlink()
        return found

    def _check_kind(self, path: Path) -> None:
        try:
            kind = (read_schema(path).metadata or {}).get(_KEY.encode())
        except pa.ArrowInvalid:
            kind = None
        if kind is None:
            raise self._foreign(path)
        if kind.decode() != self._kind():
            raise UnfitFolder(
                f"{self.path} holds an export with other columns, filters or time zone: {kind.decode()}. "
                "Use another folder, or remove its months."
            )

    def _foreign(self, path: Path) -> UnfitFolder:
        return UnfitFolder(f"{path} is not of such an export: use a folder that holds nothing else, or a new one.")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
