"""Makes SQLAlchemy engines for SQLite and PostgreSQL on which every wait is bounded."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError

from webapp.storage import sqlite_driver
from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import PoolProxiedConnection
    from sqlalchemy.engine import URL, Engine

_KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""Seconds, seconds, number: after this the kernel closes a connection whose server has gone silent."""
_SHORTEST_CONNECT_TIMEOUT = timedelta(seconds=1)
_RELIED_ON = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
}
"""Settings of PostgreSQL that this program relies on, whatever a role, a database or the environment says."""
_OF_READERS = {"jit": "off", "plan_cache_mode": "force_custom_plan"}
"""Figures of a year: 5 ms by a plan for these days, 180 to 390 ms by a compiled one for any."""
_WAL_ATTEMPTS, _WAL_PAUSE_SECONDS = 20, 0.05


def sqlite_engine(url: URL, *, patience: timedelta, connections: int, begin: str) -> Engine:
    """An engine on a SQLite file; ``begin`` is the statement that begins each transaction.

    ``patience`` bounds the wait for a lock and for a connection of the pool.
    """
    engine = create_engine(
        url,
        connect_args={
            "timeout": patience.total_seconds(),
            "isolation_level": None,
            "check_same_thread": False,
            "factory": sqlite_driver.connection_class(),
        },
        **_pool(patience, connections),
    )
    path = str(url.database)

    def check_the_file(_connection: object, record: Any, _proxy: object) -> None:
        """Drop a connection whose file was deleted or replaced: what is written there is lost."""
        try:
            current = files.inode(path)
        except OSError:
            current = None
        if record.info.setdefault("inode", current) != current or current is None:
            raise DisconnectionError(f"{path} was removed or replaced")

    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "checkout", check_the_file)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def postgresql_engine(
    url: URL,
    *,
    patience: timedelta,
    connections: int,
    time_limits: TimeLimits,
    transaction_limit: timedelta | None,
    snapshots: bool,
) -> Engine:
    """An engine on PostgreSQL, directly or through PgBouncer.

    ``snapshots``: its transactions read the state of one moment, and each connection is checked before its use.
    ``patience`` bounds the wait for the log-in, for a lock and for a connection of the pool.
    """
    connect_timeout = min(max(patience, _SHORTEST_CONNECT_TIMEOUT), _connect_timeout_of(url))
    milliseconds = round(patience.total_seconds() * 1000)
    own = {"tcp_user_timeout": milliseconds, **_KEEPALIVES}
    arguments = {name: value for name, value in own.items() if name not in url.query} | {
        "connect_timeout": round(connect_timeout.total_seconds()),
        "client_encoding": "utf8",
        # ``_begin_transaction`` begins the transactions.
        "autocommit": True,
    }
    # SQLAlchemy would look for a type that no table has, once in each engine.
    engine = create_engine(url, use_native_hstore=False, connect_args=arguments, **_pool(patience, connections))

    def connect(dialect: Any, _record: object, args: Any, options: Any) -> Any:
        connection = dialect.connect(*args, **options)
        time_limits.start(connection, connect_timeout)
        return connection

    def check_out(connection: Any, _record: object, _proxy: object) -> None:
        if snapshots:
            time_limits.start(connection, connect_timeout)
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                # The pool's other connections are as old; it makes a new one instead.
                raise InvalidatePoolError from error
        if transaction_limit:
            time_limits.start(connection, transaction_limit)
        else:
            time_limits.stop(connection)

    event.listen(engine, "do_connect", connect)
    mode = "REPEATABLE READ, READ ONLY" if snapshots else "READ COMMITTED"
    own_settings = {"lock_timeout": str(milliseconds)} | (_OF_READERS if snapshots else {})
    event.listen(engine, "connect", _prepare_postgresql(mode, own_settings))
    # An error of the driver in a listener to "begin" would not become one of SQLAlchemy.
    engine.dialect.do_begin = _begin_transaction  # type: ignore[method-assign]
    event.listen(engine, "checkout", check_out)
    event.listen(engine, "checkin", lambda connection, _record: time_limits.stop(connection))
    return engine


def _pool(patience: timedelta, connections: int) -> dict[str, Any]:
    return {
        "pool_size": connections,
        "max_overflow": 0,
        "pool_timeout": patience.total_seconds(),
        "hide_parameters": True,
    }


class TimeLimits:
    """Cuts connections that are used for too long; the call that waits on one then fails.

    A server that hangs, or a network that drops everything, sends no error.
    """

    def __init__(self, shortest: timedelta) -> None:
        """``shortest`` is the shortest limit that will be set; nothing is watched yet."""
        self._pause_seconds = min(0.5, shortest.total_seconds() / 4)
        self._running: dict[int, tuple[float, Any]] = {}
        self._watch: threading.Thread | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def start(self, connection: Any, length: timedelta) -> None:
        """Limit the use of a driver's connection from now on, until ``stop``."""
        self._running[id(connection)] = time.monotonic() + length.total_seconds(), connection
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=self._cut_overdue, daemon=True, name="database-time-limit")
            self._watch.start()

    def stop(self, connection: Any) -> None:
        """Lift the limit of a connection."""
        self._running.pop(id(connection), None)

    def _cut_overdue(self) -> None:
        while not self._closed.wait(self._pause_seconds):
            for deadline, connection in list(self._running.values()):
                if time.monotonic() >= deadline:
                    self.stop(connection)
                    # A closed connection has no descriptor; drivers raise errors of several kinds then.
                    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
                        duplicate.shutdown(socket.SHUT_RDWR)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    _use_wal(connection)
    # In WAL mode a commit is on the disk when it returns only with FULL.
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_wal(connection: Any) -> None:
    """Use WAL mode. To change to it SQLite needs the file alone, and does not wait for it as it does for locks."""
    for _ in range(_WAL_ATTEMPTS):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        time.sleep(_WAL_PAUSE_SECONDS)
    connection.execute("PRAGMA journal_mode=WAL").close()


def _connect_timeout_of(url: URL) -> timedelta:
    """The URL's ``connect_timeout``; 0 or none is no limit."""
    seconds = int(str(url.query.get("connect_timeout", 0)))
    return timedelta(seconds=seconds) if seconds > 0 else timedelta.max


def _prepare_postgresql(mode: str, own: dict[str, str]) -> Callable[[Any, Any], None]:
    """Give each new session the settings that this program relies on, and write how its transactions begin."""
    begin = f"BEGIN ISOLATION LEVEL {mode}"

    def prepare(connection: Any, record: Any) -> None:
        found = connection.execute("SELECT pg_backend_pid(), current_setting('synchronous_commit')").fetchone()
        session, synchronous_commit = found
        settings = _RELIED_ON | own
        if synchronous_commit == "off":  # A callback would be answered before it is on the disk.
            settings["synchronous_commit"] = "on"
        if session == connection.info.backend_pid:
            connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()))
            record.info["begin"] = begin
        else:
            # A pooler such as PgBouncer gives each transaction another session: nothing may be left to the session.
            connection.prepare_threshold = None
            local = (f"SET LOCAL {name} = '{value}'" for name, value in settings.items())
            record.info["begin"] = "; ".join([begin, *local])

    return prepare


def _begin_transaction(dbapi_connection: PoolProxiedConnection) -> None:
    connection: Any = dbapi_connection.driver_connection
    # Several statements, in one round trip, cannot be prepared.
    connection.execute(dbapi_connection.info["begin"], prepare=False)
