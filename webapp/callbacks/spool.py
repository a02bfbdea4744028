"""The spool: callbacks wait here, on disk, while the database cannot take them. One SQLite file in INSTANCE_DIR.

It holds requests as they came; they are parsed when they are stored in the database. All processes of one receiver
share the file: each operation has it alone, and one process at a time drains it.
"""

from __future__ import annotations

import logging
import operator
import os
import sqlite3
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from webapp.callbacks.request import CallbackRequest
from webapp.storage import sqlite_driver
from webapp.storage.types import iso
from webapp.support import files
from webapp.support.sizes import size_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ROW_BYTES = 200
"""About what a row takes besides its query and body."""
_SPOOL_LOCK_SECONDS = 2
_DEPTH_LOCK_SECONDS = 0.5
_SCHEMA = """
CREATE TABLE IF NOT EXISTS arrivals (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    received_at TEXT NOT NULL,
    remote_addr TEXT,
    method TEXT NOT NULL,
    content_type TEXT,
    query BLOB NOT NULL,
    body BLOB NOT NULL,
    problem TEXT
) STRICT
"""
_FIELD_NAMES = [field.name for field in fields(CallbackRequest)]
_COLUMN_LIST = ", ".join(_FIELD_NAMES)
_INSERT = f"INSERT OR IGNORE INTO arrivals ({_COLUMN_LIST}) VALUES (?,?,?,?,?,?,?,?)"  # noqa: S608 - our own names
_INSERT_AT = f"INSERT OR IGNORE INTO arrivals (position, {_COLUMN_LIST}) VALUES (?,?,?,?,?,?,?,?,?)"  # noqa: S608
_LAST_POSITION = 2**63 - 1


class SpoolError(Exception):
    """The spool cannot be read or written now: it is full, or its disk is, or its folder cannot be used."""


class _CorruptError(SpoolError):
    """The spool's file is corrupt."""


class _SenselessRow(sqlite3.DatabaseError):
    """A row can be read and makes no sense: the file is corrupt where SQLite does not check it."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits in the spool: callbacks, bytes in use of the file, and when the oldest was received."""

    reports: int = 0
    size: int = 0
    oldest_at: datetime | None = None

    def oldest_seconds(self, now: datetime) -> float:
        """For how long the oldest has waited; 0 if none does."""
        return max(0.0, (now - self.oldest_at).total_seconds()) if self.oldest_at else 0.0


def _replacing_a_corrupt_file(
    method: Callable[Concatenate[Spool, P], T],
) -> Callable[Concatenate[Spool, P], T]:
    """Run the method again on a new file, if it finds the file corrupt."""

    @wraps(method)
    def run(spool: Spool, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(spool, *args, **kwargs)
        except _CorruptError as error:
            spool._replace_file(error)  # noqa: SLF001 - decorates that class's methods
            return method(spool, *args, **kwargs)

    return run


class Spool:
    """The spool of one instance folder. Every method raises SpoolError if it cannot be used."""

    def __init__(self, folder: Path, limit: int) -> None:
        """``limit`` is in bytes, of pages in use: a drained file keeps its size. Nothing is opened or made yet."""
        self._path = folder / "spool.db"
        self._journal = folder / "spool.db-journal"
        self._lock_path = folder / "spool.lock"
        self._limit = limit
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._thread_lock = threading.Lock()

    @_replacing_a_corrupt_file
    def append(self, requests: Sequence[CallbackRequest]) -> None:
        """Keep requests; they are on the disk when this returns. One that is there already is left as it is."""
        with self._transaction() as connection:
            size = sum(len(request.query) + len(request.body) + _ROW_BYTES for request in requests)
            if _bytes_in_use(connection) + size > self._limit:
                raise SpoolError(f"{self._path} has reached SPOOL_LIMIT ({size_in_words(self._limit)})")
            connection.executemany(_INSERT, map(_as_row, requests))

    @_replacing_a_corrupt_file
    def oldest(self, number: int, *, after: int = 0) -> list[tuple[int, CallbackRequest]]:
        """The requests that came first, each with its position, behind the position ``after``."""
        query = f"SELECT position, {_COLUMN_LIST} FROM arrivals WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608
        if not self._exists():
            return []
        with self._transaction() as connection:
            rows = connection.execute(query, (after, number)).fetchall()
            return [(row[0], _as_request(row[1:])) for row in rows]

    @_replacing_a_corrupt_file
    def remove(self, ids: Iterable[UUID]) -> None:
        """Remove what is stored in the database. By ids: a file begun meanwhile has the same positions."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM arrivals WHERE id = ?", [(str(identifier),) for identifier in ids])

    @_replacing_a_corrupt_file
    def delete_if_drained(self, last: UUID) -> None:
        """Give the file's space back to the disk, if nothing came after that request.

        A disk that the spool has filled has no space for removing, so that request may still be in it.
        """
        if not self._exists():
            return
        with self._locked():
            query = "SELECT id FROM arrivals ORDER BY position DESC LIMIT 1"
            newest = self._open_current().execute(query).fetchone()
            if newest not in {None, (str(last),)}:
                return
            self._close()
            # Other processes may have it open for long: unlinked only, it would keep its space until then. The name
            # goes first: should a crash come between, they see by that to begin a new file.
            with self._path.open("r+b") as file:
                for part in self._files():
                    part.unlink()
                os.truncate(file.fileno(), 0)

    @_replacing_a_corrupt_file
    def depth(self) -> Depth:
        """How much waits. A spool that was never needed has no file, and this makes none.

        Waits for other processes only shortly: one that was stopped may hold the lock forever. If it stopped in the
        middle of writing, this is what the file holds at that moment.
        """
        if not self._exists():
            return Depth()
        with ExitStack() as stack:
            with suppress(OSError):
                files.lock(stack.enter_context(self._lock_path.open("ab")), _DEPTH_LOCK_SECONDS)
            for mode in ("mode=ro", "immutable=1"):
                with suppress(sqlite3.Error), closing(_open_read_only(self._path, mode)) as connection:
                    return _depth(connection)
        with self._transaction() as connection:
            return _depth(connection)

    @contextmanager
    def draining(self) -> Iterator[bool]:
        """Whether the caller may drain: one of this receiver's processes at a time, until the block ends."""
        if not self._exists():
            yield False
            return
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self._path.with_name("spool.drain").open("ab"))
                mine = files.lock(file, 0)
            except OSError as error:
                raise SpoolError(f"{self._path}: {error}") from error
            yield mine

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._thread_lock:
            self._close()

    def _exists(self) -> bool:
        try:
            self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SpoolError(f"{self._path}: {error}") from error
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the file alone, among all threads and processes; raises SpoolError."""
        try:
            with self._thread_lock, ExitStack() as stack:
                files.make_folder(self._path.parent)
                file = stack.enter_context(self._lock_path.open("ab"))
                if not files.lock(file, _SPOOL_LOCK_SECONDS):
                    raise SpoolError(
                        f"another process has kept {self._lock_path} locked for {_SPOOL_LOCK_SECONDS} s. If it was "
                        f"stopped, let it go on (kill -CONT) or end it; `fuser {self._lock_path}` names it"
                    )
                yield
        except (OSError, sqlite3.Error) as error:
            corrupt = getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT
            raise (_CorruptError if corrupt else SpoolError)(f"{self._path}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction on the file."""
        with self._locked(), _transaction(self._open_current()) as connection:
            yield connection

    def _open_current(self) -> sqlite3.Connection:
        """A connection to the file that is there now: another process may have replaced the one that we had."""
        if self._connection is None or self._inode != files.inode(self._path):
            self._close()
            self._inode = files.inode(self._path)  # Also for a file that turns out to be corrupt.
            self._connection = _open_spool(self._path)
            self._inode = files.inode(self._path)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._inode = None

    def _files(self) -> list[Path]:
        return [part for part in (self._path, self._journal) if part.exists()]

    def _replace_file(self, error: SpoolError) -> None:
        """Set the corrupt file aside, and begin a new one with the rows that SQLite still reads.

        A crash leaves the one or the other. What cannot be read is lost, unless a person finds it in the old file.
        """
        with self._locked():
            if self._inode is not None and self._inode != files.inode(self._path):
                return  # Another process has replaced it already.
            self._close()
            aside = self._path.with_name(f"spool-corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db")
            log.critical("THE SPOOL IS CORRUPT (%s). It is kept as %s, and a new one is begun.", error, aside)
            with TemporaryDirectory(dir=self._path.parent, prefix=".spool-") as draft:
                new = Path(draft) / "spool.db"
                with closing(_open_spool(new)) as connection, _transaction(connection):
                    number = _copy_readable_rows(self._path, connection)
                for part in self._files():
                    os.link(part, f"{aside}{part.name.removeprefix(self._path.name)}")
                self._journal.unlink(missing_ok=True)
                new.replace(self._path)
            files.sync_folder(self._path.parent)
            log.critical("%d callbacks could be read out of the corrupt spool, and are in the new one.", number)


def _open_spool(path: Path) -> sqlite3.Connection:
    new = not path.exists()
    connection = sqlite_driver.connect(path, timeout=_SPOOL_LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    connection.text_factory = _utf8_text
    try:
        # No WAL: a process that still has a replaced file open would remove the new one's, by its name.
        # With FULL, and a journal that is truncated, a commit is on the disk when it returns.
        for statement in ("PRAGMA journal_mode=TRUNCATE", "PRAGMA synchronous=FULL", _SCHEMA):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    if new:
        path.chmod(0o600)
        files.sync_folder(path.parent)
    return connection


def _open_read_only(path: Path, mode: str) -> sqlite3.Connection:
    """``mode=ro`` waits while another process writes; ``immutable=1`` ignores locks, and may see half a commit."""
    uri = f"{path.absolute().as_uri()}?{mode}"
    connection = sqlite_driver.connect(uri, timeout=_DEPTH_LOCK_SECONDS, uri=True, check_same_thread=False)
    connection.text_factory = _utf8_text
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _depth(connection: sqlite3.Connection) -> Depth:
    (number,) = connection.execute("SELECT count(*) FROM arrivals").fetchone()
    oldest = connection.execute(f"SELECT {_COLUMN_LIST} FROM arrivals ORDER BY position LIMIT 1").fetchone()  # noqa: S608
    return Depth(number, _bytes_in_use(connection), _as_request(oldest).received_at if oldest else None)


def _bytes_in_use(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _copy_readable_rows(path: Path, new: sqlite3.Connection) -> int:
    """Copy the rows from the first to the first that is damaged, and from the last likewise; how many.

    Raises sqlite3.Error if a row that makes sense cannot be written, on a full disk for example.
    """
    for order in ("ASC", "DESC"):
        for position, *values in _readable_rows(path, order):
            with suppress(ValueError, TypeError, _SenselessRow, sqlite3.IntegrityError):
                new.execute(_INSERT_AT, (position, *_as_row(_as_request(_decoded_row(values)))))
    (number,) = new.execute("SELECT count(*) FROM arrivals").fetchone()
    return int(number)


def _readable_rows(path: Path, order: str) -> Iterator[tuple[Any, ...]]:
    position, sign, is_further = (-1, ">", operator.gt) if order == "ASC" else (_LAST_POSITION, "<", operator.lt)
    query = (
        f"SELECT position, {_COLUMN_LIST} FROM arrivals NOT INDEXED"  # noqa: S608
        f" WHERE position {sign} ? ORDER BY position {order} LIMIT 1"
    )
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.text_factory = bytes
        # One by one: a cursor reads a row ahead, and where that is damaged it does not give the one before either.
        while (row := old.execute(query, (position,)).fetchone()) and is_further(row[0], position):
            yield row
            position = row[0]


def _decoded_row(values: Sequence[object]) -> list[object]:
    """A row's values, its texts read as bytes, with texts; raises ValueError. Query and body stay bytes."""
    blobs = {_FIELD_NAMES.index("query"), _FIELD_NAMES.index("body")}
    return [
        value.decode() if isinstance(value, bytes) and place not in blobs else value
        for place, value in enumerate(values)
    ]


def _utf8_text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _SenselessRow(str(error)) from error


def _as_row(request: CallbackRequest) -> tuple[object, ...]:
    identifier, received_at, *rest = astuple(request)
    return (str(identifier), iso(received_at), *rest)


def _as_request(row: Sequence[object]) -> CallbackRequest:
    identifier, received_at, *rest = row
    try:
        return CallbackRequest(UUID(str(identifier)), datetime.fromisoformat(str(received_at)), *rest)  # type: ignore[arg-type]
    except ValueError as error:
        raise _SenselessRow(str(error)) from error
