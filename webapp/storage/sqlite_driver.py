"""Connects to SQLite; under the server, its blocking calls run in threads, so that other connections are served.

SQLite has no sockets that gevent could wait for: BEGIN may wait for a lock, and COMMIT for the disk.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from webapp.support.yield_to_others import is_under_gevent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

_PREFETCHED_ROWS = 256
THREADS = 16
"""Threads of a process for SQLite: more than its connections, so that slow reads never delay writes or the spool."""


def connect(path: str | PathLike[str], **options: Any) -> sqlite3.Connection:
    """A connection as ``sqlite3.connect`` makes it, which blocks its own greenlet only."""
    return sqlite3.connect(path, factory=connection_class(), **options)


def connection_class() -> type[sqlite3.Connection]:
    """What to give to ``sqlite3.connect`` as its factory."""
    return _ThreadedConnection if is_under_gevent() else sqlite3.Connection


class _Threads:
    """The process's threads for SQLite; they start with the first call, for a process that forks must have none."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._starting = threading.Lock()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns or raises; other greenlets go on meanwhile."""
        if self._pool is None:
            with self._starting:
                if self._pool is None:
                    from gevent.threadpool import ThreadPool  # noqa: PLC0415 - under the server only

                    self._pool = ThreadPool(THREADS)
        # The error is returned as a value: gevent prints every error that leaves a thread of its pool.
        result, error = self._pool.apply(_result_or_error, (function, arguments))
        if error is not None:
            raise error
        return result


def _result_or_error(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    try:
        return function(*arguments), None
    except BaseException as error:  # noqa: BLE001 - it is raised again in the greenlet that called
        return None, error


_threads = _Threads()


class _ThreadedCursor(sqlite3.Cursor):
    """Fetches the first rows together with the statement: each change of threads costs as much as a small query."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._fetched: list[Any] = []
        self._exhausted = False

    def execute(self, sql: str, parameters: Any = (), /) -> _ThreadedCursor:
        self._fetched = _threads.call(self._execute_and_fetch, sql, parameters)
        self._exhausted = len(self._fetched) < _PREFETCHED_ROWS
        self._fetched.reverse()
        return self

    def _execute_and_fetch(self, sql: str, parameters: Any) -> list[Any]:
        super().execute(sql, parameters)
        return super().fetchmany(_PREFETCHED_ROWS)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> _ThreadedCursor:
        self._fetched, self._exhausted = [], True
        _threads.call(super().executemany, sql, parameters)
        return self

    def fetchone(self) -> Any:
        if self._fetched or self._exhausted:
            return self._fetched.pop() if self._fetched else None
        return _threads.call(super().fetchone)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        wanted = self.arraysize if size is None else size
        rows = [self._fetched.pop() for _ in range(min(wanted, len(self._fetched)))]
        if len(rows) < wanted and not self._exhausted:
            rows += _threads.call(super().fetchmany, wanted - len(rows))
        return rows

    def fetchall(self) -> list[Any]:
        rows, self._fetched = self._fetched[::-1], []
        if not self._exhausted:
            rows += _threads.call(super().fetchall)
        return rows

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row


class _ThreadedConnection(sqlite3.Connection):
    def cursor(self, factory: Any = _ThreadedCursor) -> Any:
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().executemany(sql, parameters)
        return cursor

    def commit(self) -> None:
        if self.in_transaction:
            _threads.call(super().commit)

    def rollback(self) -> None:
        if self.in_transaction:
            _threads.call(super().rollback)
