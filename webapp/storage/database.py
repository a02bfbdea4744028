"""The database: how it is reached, how a transaction on it is made, and at which migration it is.

Knows no table but Alembic's own, and nothing of calls.
"""

from __future__ import annotations

import os
import random
import re
import socket
import sqlite3
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, func, make_url, select, text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InvalidatePoolError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from webapp.support import files
from webapp.support.waiting import Aside, directly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection, Engine

Result = TypeVar("Result")

_ATTEMPTS = 3
_LONGEST_APART_SECONDS = 0.05
_KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""Seconds, seconds, number: after so long the kernel takes a server that went silent for dead."""
_SHORTEST_TO_CONNECT = timedelta(seconds=1)
_WAL_TRIES, _WAL_PAUSE_SECONDS = 20, 0.05
_TRANSIENT = {"40001", "40P01"}
"""PostgreSQL's codes of a transaction that lost to another and may simply be tried again."""
_OF_WHAT_IS_WRITTEN = {"09", "20", "21", "27", "2F", "38", "39", "44", "54", "P0"}
"""Classes of PostgreSQL's codes that triggers, functions and limits give, besides those of refused values."""


class Unavailable(Exception):
    """The database cannot be reached, or cannot take or give anything now. Its text shows no secret."""


class Declined(Unavailable):
    """The database is there, and its error's code speaks of what was to be written: that alone may be to blame.

    It need not be: a trigger may refuse everything. No code of a database that is full, locked, read-only, out of
    something or away is among these.
    """


class NotMigrated(Exception):
    """The database is not at the migration that this program needs. Its text says what to do."""


class Database:
    """Connections to one database; ``patience`` bounds every wait for it: to connect, for a lock, for a connection.

    Writers and readers have pools of their own, so that neither waits for the other's connections. On SQLite there is
    one writer a process, and a writing transaction locks at its beginning (BEGIN IMMEDIATE). With ``at_most`` no
    transaction on PostgreSQL lasts longer: a server that hangs, or a network that swallows everything, says nothing
    by itself. So the first words on a connection, from the log-in on, are waited for with patience only, too.
    """

    def __init__(
        self,
        url: str,
        *,
        patience: timedelta = timedelta(seconds=30),
        at_most: timedelta | None = None,
        connections: int = 10,
    ) -> None:
        """Connect to nothing yet."""
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._patience = patience
        self._to_connect = max(patience, _SHORTEST_TO_CONNECT)
        self._at_most = at_most
        self._time_limits = _TimeLimits(at_most or patience)
        self._writer = self._engine(1 if self.is_sqlite else connections, "BEGIN IMMEDIATE", ping=False)
        self._reader = self._engine(connections, "BEGIN", ping=True)
        self._here = _Here()
        self._write_aside = Aside(1) if self.is_sqlite else directly
        self._read_aside = Aside(4) if self.is_sqlite else directly

    @property
    def name(self) -> str:
        """The database in words, without its password."""
        if self.is_sqlite:
            return str(self.url.database)
        return self.url.difference_update_query(["password"]).render_as_string(hide_password=True)

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Do ``work`` in one transaction and commit it; raises Unavailable (it may be Declined), with nothing done.

        ``work`` may be run more than once: a transaction that lost to another, or whose connection turned out to be
        dead before patience was at its end, is tried again. DataError and IntegrityError (the database refuses the
        values) are the caller's.
        """
        return self._write(work) if self._here.in_turn else self._write_aside(lambda: self._write(work))

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Do ``work``, which writes, where and when ``write`` would; so what it writes may still come until then."""

        def wait_and_do() -> Result:
            with self._turn():
                self._here.in_turn = True
                try:
                    return work()
                finally:
                    self._here.in_turn = False

        return self._write_aside(wait_and_do) if self.is_sqlite else work()

    def _write(self, work: Callable[[Connection], Result]) -> Result:
        for attempt in range(1, _ATTEMPTS + 1):
            patient_until = time.monotonic() + self._patience.total_seconds()
            try:
                with self._turn(), self._writer.connect() as connection, connection.begin():
                    return work(connection)
            except (DataError, IntegrityError):
                raise
            except MemoryError as error:
                raise Unavailable(f"{self.name}: this process is out of memory") from error
            except SQLAlchemyError as error:
                if attempt == _ATTEMPTS or not _may_pass(error) or time.monotonic() >= patient_until:
                    raise self._unavailable(error) from error
                # Two that locked each other out would otherwise meet again.
                time.sleep(random.uniform(0, _LONGEST_APART_SECONDS))  # noqa: S311
        raise AssertionError

    def now(self) -> datetime:
        """The time by the database's clock, which all machines that use it share; SQLite's is this machine's."""
        return self.ask(clock)

    def ask(self, work: Callable[[Connection], Result]) -> Result:
        """Do ``work`` in one transaction for reading; raises Unavailable."""

        def read() -> Result:
            with self._reading() as connection:
                return work(connection)

        return self._read_aside(read)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction for reading one moment's state, as long as it may take; raises Unavailable."""
        with self._reading() as connection:
            self._time_limits.lift(connection.connection.dbapi_connection)
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._reader.connect() as connection, connection.begin():
                if not self.is_sqlite:
                    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
                yield connection
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """On SQLite, wait for one's turn among this program's processes: SQLite itself looks only now and then.

        Whoever has waited long enough goes on: SQLite's own lock is what counts.
        """
        with ExitStack() as until_done:
            if self.is_sqlite and not self._here.in_turn:
                with suppress(OSError):
                    file = until_done.enter_context(Path(f"{self.url.database}-turn").open("ab"))
                    files.lock(file, self._patience.total_seconds())
            yield

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._time_limits.close()
        self._writer.dispose()
        self._reader.dispose()

    def migrate(self) -> tuple[str | None, str]:
        """Bring the database to the newest migration; returns the one before and the one after."""
        config = _alembic_config()

        def upgrade(connection: Connection) -> str | None:
            before = MigrationContext.configure(connection).get_current_revision()
            if before != newest_migration():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            return before

        if self.is_sqlite:
            self._make_folder()
        return self.write(upgrade), newest_migration()

    def check(self, *, writes: bool = True) -> None:
        """Raise Unavailable or NotMigrated unless the database is at the newest migration and, if asked, writable."""
        if self.is_sqlite and not Path(str(self.url.database)).exists():
            message = (
                f"{self.name} does not exist yet: run `esms-calls migrate`, "
                "or say by DATABASE_URL or INSTANCE_DIR where the calls are."
            )
            raise NotMigrated(message)
        current = self.write(_touch_revision) if writes else self.ask(_revision)
        if current != newest_migration():
            message = (
                f"The database is at migration {current or 'none'}, and {newest_migration()} is needed: "
                "run `esms-calls migrate`."
            )
            raise NotMigrated(message)

    def _make_folder(self) -> None:
        folder = Path(str(self.url.database)).parent
        try:
            files.make_folder(folder)
        except OSError as error:
            raise Unavailable(f"{self.name}: the folder cannot be made: {error.strerror}") from error

    def _engine(self, connections: int, begin: str, *, ping: bool) -> Engine:
        seconds = self._patience.total_seconds()
        to_connect = round(self._to_connect.total_seconds())
        arguments: dict[str, Any] = (
            {"timeout": seconds, "isolation_level": None, "check_same_thread": False}
            if self.is_sqlite
            else {"connect_timeout": to_connect, "tcp_user_timeout": round(seconds * 1000), **_KEEPALIVES}
        )
        engine = create_engine(
            self.url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=seconds,
            hide_parameters=True,
            connect_args=arguments,
        )
        if self.is_sqlite:
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "checkout", self._insist_on_the_file)
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        else:
            event.listen(engine, "connect", _prepare_postgresql(round(seconds * 1000)))
            self._limit_time(engine, ping=ping)
        return engine

    def _limit_time(self, engine: Engine, *, ping: bool) -> None:
        """Limit what is done on the engine's connections, from the log-in until they are back in the pool."""
        limits = self._time_limits

        def connect(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
            connection = dialect.connect(*arguments, **options)
            limits.set(connection, self._to_connect)
            return connection

        def check_out(connection: Any, _record: object, _proxy: object) -> None:
            if ping:
                limits.set(connection, self._to_connect)
                try:
                    engine.dialect.do_ping(connection)
                except engine.dialect.loaded_dbapi.Error as error:
                    # The pool's other connections are as old; it makes a new one instead.
                    raise InvalidatePoolError from error
            if self._at_most:
                limits.set(connection, self._at_most)
            else:
                limits.lift(connection)

        event.listen(engine, "do_connect", connect)
        event.listen(engine, "checkout", check_out)
        event.listen(engine, "checkin", lambda connection, _record: limits.lift(connection))

    def _insist_on_the_file(self, _connection: object, record: Any, _proxy: object) -> None:
        """Leave a connection whose file was deleted or replaced: what is written there is lost with it."""
        try:
            now = files.inode(str(self.url.database))
        except OSError:
            now = None
        if record.info.setdefault("inode", now) != now or now is None:
            raise DisconnectionError(f"{self.name} was removed or replaced")

    def _unavailable(self, error: SQLAlchemyError) -> Unavailable:
        cause: BaseException = error.orig if isinstance(error, DBAPIError) and error.orig else error
        words = "every connection is in use" if isinstance(error, PoolTimeoutError) else str(cause)
        first = next((line.strip() for line in words.splitlines() if line.strip()), cause.__class__.__name__)
        if self.url.password:
            first = first.replace(str(self.url.password), "***")
        kind = Declined if _speaks_of_what_is_written(cause) else Unavailable
        return kind(f"{self.name}: {first}")


class _Here(threading.local):
    """What is so in one thread alone."""

    in_turn = False


class _TimeLimits:
    """Cuts connections that are used for too long; whoever waits on one then gets an error."""

    def __init__(self, shortest: timedelta) -> None:
        self._pause_seconds = min(0.5, shortest.total_seconds() / 4)
        self._running: dict[int, tuple[float, Any]] = {}
        self._watch: threading.Thread | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def set(self, connection: Any, length: timedelta) -> None:
        """Limit the use of a driver's connection, from now on, until the limit is lifted."""
        self._running[id(connection)] = time.monotonic() + length.total_seconds(), connection
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=self._cut_late_ones, daemon=True, name="database-time-limit")
            self._watch.start()

    def lift(self, connection: Any) -> None:
        """Limit the use of a connection no more."""
        self._running.pop(id(connection), None)

    def _cut_late_ones(self) -> None:
        while not self._closed.wait(self._pause_seconds):
            for until, connection in list(self._running.values()):
                if time.monotonic() >= until:
                    self.lift(connection)
                    # One that is closed has no descriptor any more; nor has it a name among the driver's own errors.
                    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as line:
                        line.shutdown(socket.SHUT_RDWR)


def clock(connection: Connection) -> datetime:
    """What the database's clock says at this very moment, not at the transaction's beginning."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _may_pass(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRANSIENT
    )


def _speaks_of_what_is_written(cause: BaseException) -> bool:
    if isinstance(cause, sqlite3.Error):
        # Its code for whatever has no other: what a function in a trigger fails with, and also a table that is gone.
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return (getattr(cause, "sqlstate", None) or "")[:2] in _OF_WHAT_IS_WRITTEN


def _prepare_sqlite(connection: Any, _record: object) -> None:
    _write_ahead(connection)
    # FULL: in WAL mode, only then is a commit on the disk when it returns.
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _write_ahead(connection: Any) -> None:
    """Use WAL mode. To change to it, SQLite wants the file alone, and does not wait for it as it does for locks."""
    for _ in range(_WAL_TRIES):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        time.sleep(_WAL_PAUSE_SECONDS)
    connection.execute("PRAGMA journal_mode=WAL").close()


def _prepare_postgresql(lock_timeout: int) -> Callable[[Any, object], None]:
    def prepare(connection: Any, _record: object) -> None:
        connection.execute(f"SET lock_timeout = {lock_timeout}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.commit()

    return prepare


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _touch_revision(connection: Connection) -> str | None:
    current = _revision(connection)
    if current is not None:
        # A write that changes nothing: a database that is read-only or locked shows itself.
        connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
    return current


def _migrations() -> Path:
    """The folder of the migrations: beside the package in a checkout, inside it when installed from a wheel."""
    here = Path(__file__).resolve().parents[1]
    return next(folder for folder in (here / "migrations", here.parent / "migrations") if folder.is_dir())


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", re.sub("%", "%%", str(_migrations())))
    return config


@cache
def newest_migration() -> str:
    """The revision that this program needs."""
    head = ScriptDirectory.from_config(_alembic_config()).get_current_head()
    return str(head)
