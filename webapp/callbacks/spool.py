"""The spool: where callbacks wait, durably, while the database cannot take them. One file in the instance folder.

It holds requests as they came, for what they mean is read when they are stored. It knows nothing of the database. One
receiver's processes share it: whoever reads or writes has the file to himself for that moment, and one of them drains.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import tempfile
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from webapp.callbacks.request import CallbackRequest
from webapp.storage.types import iso
from webapp.support import files
from webapp.support.waiting import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Result = TypeVar("Result")

log = logging.getLogger(__name__)

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ROW_BYTES = 200
"""What a row takes besides its query and body, about."""
_WAIT_SECONDS = 2
_LOOK_SECONDS = 0.5
_PAGE_BYTES = 4096
_MOUNTINFO = Path("/proc/self/mountinfo")
_LEAF = b"\x0d"
"""How a page begins that holds rows of a table."""
_DAMAGE = (sqlite3.Error, ValueError, TypeError)
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


class SpoolError(Exception):
    """The spool cannot take or give anything now: it is full, or its disk is, or its folder cannot be used."""


class _Senseless(sqlite3.DatabaseError):
    """A row can be read and makes no sense: the file is damaged where SQLite does not look."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


_COLUMNS = ", ".join(field.name for field in fields(CallbackRequest))
_INSERT = f"INSERT OR IGNORE INTO arrivals ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits in the spool: arrivals, bytes in use of the file, and when the oldest was received."""

    reports: int = 0
    size: int = 0
    oldest_at: datetime | None = None

    def oldest_seconds(self, now: datetime) -> float:
        """For how long the oldest has waited; 0 if none does."""
        return max(0.0, (now - self.oldest_at).total_seconds()) if self.oldest_at else 0.0


class Spool:
    """The spool of one instance folder. Every method raises SpoolError if it cannot be used."""

    def __init__(self, folder: Path, limit: int) -> None:
        """``limit`` is in bytes, of pages in use: a drained file keeps its size. Nothing is opened or made yet."""
        self._path = folder / "spool.db"
        self._journal = folder / "spool.db-journal"
        self._lock = folder / "spool.lock"
        self._limit = limit
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._mine = threading.Lock()
        self._aside = Aside(1)
        self._look_aside = Aside(1)

    def append(self, arrivals: Sequence[CallbackRequest]) -> None:
        """Keep arrivals; they are on the disk when this returns. One that is there already is left as it is."""

        def work(spool: sqlite3.Connection) -> None:
            size = sum(len(arrival.query) + len(arrival.body) + _ROW_BYTES for arrival in arrivals)
            if _bytes_in_use(spool) + size > self._limit:
                raise SpoolError(f"{self._path} has reached SPOOL_LIMIT ({self._limit >> 20} MiB)")
            spool.executemany(_INSERT, map(_as_row, arrivals))

        self._do(work)

    def oldest(self, number: int, *, after: int = 0) -> list[tuple[int, CallbackRequest]]:
        """The arrivals that came first, each with its position, behind the position ``after``."""
        query = f"SELECT position, {_COLUMNS} FROM arrivals WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608

        def work(spool: sqlite3.Connection) -> list[tuple[int, CallbackRequest]]:
            return [(row[0], _as_arrival(row[1:])) for row in spool.execute(query, (after, number))]

        return self._do(work) if self._exists() else []

    def remove(self, ids: Iterable[UUID]) -> None:
        """Let go of what is stored in the database by now. By ids: a file begun meanwhile has the same positions."""
        gone = [(str(identifier),) for identifier in ids]
        self._do(lambda spool: spool.executemany("DELETE FROM arrivals WHERE id = ?", gone) and None)

    def drop(self, last: UUID) -> None:
        """Give the file's room back to the disk, if nothing came after that arrival.

        A disk that the spool has filled has no room for removing, so that one may still be in it.
        """

        def drop() -> None:
            query = "SELECT id FROM arrivals ORDER BY position DESC LIMIT 1"
            newest = self._transact(lambda spool: spool.execute(query).fetchone())
            if newest in {None, (str(last),)}:
                self._close()
                # Other processes have it open, maybe for long: unlinked only, it would take as much room until then.
                # The name goes first: whoever has it open sees by that, should a crash come between, to begin anew.
                with self._path.open("r+b") as file:
                    for part in self._files():
                        part.unlink()
                    os.truncate(file.fileno(), 0)

        if self._exists():
            self._alone(drop)

    def depth(self) -> Depth:
        """How much waits. A spool that was never needed has no file, and is not made by asking.

        Whoever asks waits for his turn, but not for long: a process that was stopped may keep it for ever. Where that
        is in the middle of writing, it is told what the file holds at that moment.
        """

        def look() -> Depth | None:
            with ExitStack() as until_done:
                with suppress(OSError):
                    files.lock(until_done.enter_context(self._lock.open("ab")), _LOOK_SECONDS)
                for how in ("mode=ro", "immutable=1"):
                    with suppress(sqlite3.Error), closing(_only_read(self._path, how)) as spool:
                        return _depth(spool)
            return None

        if not self._exists():
            return Depth()
        return self._look_aside(look) or self._do(_depth)

    @contextmanager
    def draining(self) -> Iterator[bool]:
        """Whether the caller is the one who drains, among all processes of this receiver, until the block ends."""
        if not self._exists():
            yield False
            return
        with ExitStack() as until_done:
            try:
                file = until_done.enter_context(self._path.with_name("spool.drain").open("ab"))
                mine = files.lock(file, 0)
            except OSError as error:
                raise SpoolError(f"{self._path}: {error}") from error
            yield mine

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._mine:
            self._close()

    def _exists(self) -> bool:
        try:
            self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SpoolError(f"{self._path}: {error}") from error
        return True

    def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """One transaction on the file, alone."""
        return self._alone(lambda: self._transact(work))

    def _alone(self, work: Callable[[], Result]) -> Result:
        def locked() -> Result:
            try:
                with self._mine:
                    files.make_folder(self._path.parent)
                    with self._lock.open("ab") as file:
                        if files.lock(file, _WAIT_SECONDS):
                            return work()
            except (OSError, sqlite3.Error) as error:
                raise SpoolError(f"{self._path}: {error}") from error
            raise SpoolError(
                f"another process has kept {self._lock} locked for {_WAIT_SECONDS} s. If it was stopped, let it go on "
                f"(kill -CONT) or end it; `fuser {self._lock}` tells which it is"
            )

        return self._aside(locked)

    def _files(self) -> list[Path]:
        return [part for part in (self._path, self._journal) if part.exists()]

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            return _in_transaction(self._current(), work)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CORRUPT:
                raise
            self._set_aside(error)
            return _in_transaction(self._current(), work)

    def _current(self) -> sqlite3.Connection:
        """A connection to the file that is there now: another process may have set the one that we had aside."""
        if self._connection is None or self._inode != files.inode(self._path):
            self._close()
            self._connection = _open(self._path)
            self._inode = files.inode(self._path)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._inode = None

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Begin a new file with what is whole of the old one, which is kept; a crash leaves the one or the other."""
        self._close()
        aside = self._path.with_name(f"spool-corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db")
        log.critical("THE SPOOL IS CORRUPT (%s). It is kept as %s, and a new one is begun.", error, aside)
        new = self._path.with_name("spool-new.db")
        new.unlink(missing_ok=True)
        with closing(_open(new)) as spool:
            number = _in_transaction(spool, lambda spool: _salvage(self._path, spool))
        for part in self._files():
            os.link(part, f"{aside}{part.name.removeprefix(self._path.name)}")
        self._journal.unlink(missing_ok=True)
        new.replace(self._path)
        Path(f"{new}-journal").unlink(missing_ok=True)
        files.sync_folder(self._path.parent)
        log.critical("%d arrivals could be read out of the corrupt spool, and are in the new one.", number)


def fleeting(folder: Path, mountinfo: Path = _MOUNTINFO) -> str | None:
    """The kind of file system that the folder lies on, if it is one that may not outlast this machine or container."""
    try:
        mounts = [line.split(b" ") for line in mountinfo.read_bytes().split(b"\n") if line]
    except OSError:
        return None
    kinds = {_mounted_at(mount[4]): mount[mount.index(b"-") + 1].decode() for mount in mounts}
    above = (part for part in (folder, *folder.parents) if part in kinds)
    kind = kinds.get(next(above, folder))
    return kind if kind in {"tmpfs", "ramfs", "overlay", "aufs"} else None


def _mounted_at(name: bytes) -> Path:
    """What mountinfo writes with a backslash and three octal digits for a blank and the like."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)))


def _open(path: Path) -> sqlite3.Connection:
    new = not path.exists()
    spool = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    spool.text_factory = _text
    try:
        # No WAL: a process that still has a file open which was set aside would remove the new one's, by its name.
        # With FULL, and a journal that is truncated, a commit is on the disk when it returns.
        for statement in ("PRAGMA journal_mode=TRUNCATE", "PRAGMA synchronous=FULL", _SCHEMA):
            spool.execute(statement)
    except BaseException:
        spool.close()
        raise
    if new:
        path.chmod(0o600)
        files.sync_folder(path.parent)
    return spool


def _only_read(path: Path, how: str) -> sqlite3.Connection:
    """``mode=ro`` waits for a moment in which nobody writes; ``immutable=1`` heeds no lock, and may see half of it."""
    spool = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", timeout=_LOOK_SECONDS, uri=True)
    spool.text_factory = _text
    return spool


def _depth(spool: sqlite3.Connection) -> Depth:
    (number,) = spool.execute("SELECT count(*) FROM arrivals").fetchone()
    oldest = spool.execute(f"SELECT {_COLUMNS} FROM arrivals ORDER BY position LIMIT 1").fetchone()  # noqa: S608
    return Depth(number, _bytes_in_use(spool), _as_arrival(oldest).received_at if oldest else None)


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _Senseless(str(error)) from error


def _in_transaction(spool: sqlite3.Connection, work: Callable[[sqlite3.Connection], Result]) -> Result:
    spool.execute("BEGIN IMMEDIATE")
    try:
        result = work(spool)
        spool.execute("COMMIT")
    except BaseException:
        if spool.in_transaction:
            spool.execute("ROLLBACK")
        raise
    return result


def _bytes_in_use(spool: sqlite3.Connection) -> int:
    pages, free, size = (
        spool.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _salvage(path: Path, new: sqlite3.Connection) -> int:
    """Copy the rows of every page that can still be read, whatever became of the pages above it; how many.

    A page that was let go holds what is stored by now: storing it again does nothing.
    """
    for left in path.parent.glob("salvage-*"):
        shutil.rmtree(left, ignore_errors=True)  # by one that was killed over it
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="salvage-") as folder:
        try:
            copy = _with_a_new_first_page(path, Path(folder))
            with closing(sqlite3.connect(copy, isolation_level=None)) as spool:
                spool.text_factory = _text
                for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
                    spool.execute(f"PRAGMA {setting}")
                came = {page: str(rows[0][1]) for page in _leaves(copy) if (rows := _rows(spool, page))}
                in_order = sorted(came, key=lambda page: (came[page], page))
                return sum(new.executemany(_INSERT, _rows(spool, page)).rowcount for page in in_order)
        except (OSError, sqlite3.Error) as error:
            log.error("salvaging: %s", error)  # noqa: TRY400 - the words say all
    return 0


def _with_a_new_first_page(path: Path, folder: Path) -> Path:
    """A copy with the first page of an empty spool: it only says what tables there are, and where they begin."""
    _open(folder / "empty.db").close()
    first = bytearray((folder / "empty.db").read_bytes()[:_PAGE_BYTES])
    first[92:96] = b"\0\0\0\0"  # The number of pages that it says is that of the empty one: not valid.
    copy = folder / "copy.db"
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        file.write(first)
    return copy


def _leaves(path: Path) -> list[int]:
    """The numbers of the pages that hold rows."""
    with path.open("rb") as file:
        pages = iter(lambda: file.read(_PAGE_BYTES)[:1], b"")
        return [number for number, kind in enumerate(pages, start=1) if kind == _LEAF]


def _rows(spool: sqlite3.Connection, page: int) -> list[tuple[object, ...]]:
    """What can be read of a page, taken for the whole table."""
    spool.execute("PRAGMA writable_schema=ON")
    spool.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = 'arrivals'", (page,))
    spool.execute("PRAGMA writable_schema=RESET")
    with suppress(*_DAMAGE):
        return _sound_rows(spool, "true")
    positions: list[int] = []
    with suppress(sqlite3.Error):
        positions.extend(position for (position,) in spool.execute("SELECT position FROM arrivals NOT INDEXED"))
    rows: list[tuple[object, ...]] = []
    for position in positions:
        with suppress(*_DAMAGE):
            rows += _sound_rows(spool, "position = ?", position)
    return rows


def _sound_rows(spool: sqlite3.Connection, which: str, *values: int) -> list[tuple[object, ...]]:
    query = f"SELECT {_COLUMNS} FROM arrivals NOT INDEXED WHERE {which}"  # noqa: S608 - our own words
    rows: list[tuple[object, ...]] = spool.execute(query, values).fetchall()
    for row in rows:
        _as_arrival(row)
    return rows


def _as_row(arrival: CallbackRequest) -> tuple[object, ...]:
    identifier, received_at, *rest = astuple(arrival)
    return (str(identifier), iso(received_at), *rest)


def _as_arrival(row: Sequence[object]) -> CallbackRequest:
    identifier, received_at, *rest = row
    try:
        return CallbackRequest(UUID(str(identifier)), datetime.fromisoformat(str(received_at)), *rest)  # type: ignore[arg-type]
    except ValueError as error:
        raise _Senseless(str(error)) from error
