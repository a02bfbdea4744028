"""Copies the embedded SQLite database while others use it, looks whether a copy is whole, and whether one is in use."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_SECONDS = 5
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
SUFFIXES = ("", "-wal", "-shm", "-journal")
"""What SQLite adds to a database's name for the files that belong to it."""


class Holds(NamedTuple):
    """What is in a database: its migration, and the numbers of calls and reports."""

    migration: str
    calls: int
    reports: int


def copy(source: Path, target: Path) -> None:
    """Copy the state of one moment, while others read and write; raises Unavailable.

    As one step: a copy in several begins anew whenever something is written.
    """
    try:
        with closing(_open_existing(source)) as original, closing(sqlite3.connect(target)) as made:
            original.backup(made)
    except sqlite3.Error as error:
        raise Unavailable(f"{source}: {error}") from error


def holds(path: Path) -> Holds:
    """What is in a copy that no other process uses; raises Unavailable if it is damaged, or not a database of ours."""
    try:
        with closing(_open_existing(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise Unavailable(f"{path}: it is damaged: {found}")
            (migration,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            numbers = (
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - our own names
                for table in ("calls", "status_reports")
            )
            return Holds(migration, *numbers)
    except (sqlite3.Error, TypeError) as error:
        raise Unavailable(f"{path}: {error}") from error


def is_in_use(path: Path) -> bool:
    """Whether another process has the database open. One that is damaged, or not there, is not."""
    if not path.exists():
        return False
    try:
        with closing(_open_existing(path, patience=0)) as connection:
            # Leaving WAL mode needs the file alone. The next process that opens it returns to that mode.
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.OperationalError as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED
    except sqlite3.Error:
        return False
    return False


def _open_existing(path: Path, patience: float = _PATIENCE_SECONDS) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None)
