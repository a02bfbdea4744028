"""Connects to SQLite; under the server, its blocking calls run in threads, so that other connections are served.

SQLite has no sockets that gevent could wait for: BEGIN may wait for a lock, and COMMIT for the disk.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

THREADS = 16
"""Threads of a process for SQLite: more than its connections, so that slow reads never delay writes or the spool."""


def connect(path: str | PathLike[str], **options: Any) -> sqlite3.Connection:
    """A connection as ``sqlite3.connect`` makes it, which blocks its own greenlet only."""
    return sqlite3.connect(path, factory=connection_class(), **options)


def connection_class() -> type[sqlite3.Connection]:
    """What to give to ``sqlite3.connect`` as its factory."""
    return _ThreadedConnection if _under_gevent() else sqlite3.Connection


def _under_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


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
        result, error = self._pool.apply(_outcome, (function, arguments))
        if error is not None:
            raise error
        return result


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    try:
        return function(*arguments), None
    except BaseException as error:  # noqa: BLE001 - it is raised again in the greenlet that called
        return None, error


_threads = _Threads()


class _ThreadedCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> _ThreadedCursor:
        _threads.call(super().execute, sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> _ThreadedCursor:
        _threads.call(super().executemany, sql, parameters)
        return self

    def fetchone(self) -> Any:
        return _threads.call(super().fetchone)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        rows: list[Any] = _threads.call(super().fetchmany, self.arraysize if size is None else size)
        return rows

    def fetchall(self) -> list[Any]:
        rows: list[Any] = _threads.call(super().fetchall)
        return rows


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
        _threads.call(super().commit)

    def rollback(self) -> None:
        _threads.call(super().rollback)
