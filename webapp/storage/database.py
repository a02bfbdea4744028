"""Opens transactions on the one database, and says in plain errors why one cannot be opened or committed.

Knows no table but Alembic's own, and nothing of calls.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, make_url, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from webapp.calls.phone import PLAIN
from webapp.storage import schema
from webapp.storage.engine import TimeLimits, postgresql_engine, sqlite_engine
from webapp.storage.errors import LockTimeout, NotMigrated, TransactionLost, Unavailable, Why, WriteFailed
from webapp.storage.retry import lock_retrying, retrying
from webapp.support import files
from webapp.support.database_url import is_user_public, secrets_in, users_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine

    from webapp.calls.phone import PhoneStorage

_LOST_TO_ANOTHER = {"40001", "40P01"}
"""PostgreSQL's codes of a transaction that lost to another one."""
_LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a lock that was not to be had within ``lock_timeout``."""
_CAUSED_BY_VALUES = {"09", "20", "21", "27", "2F", "38", "39", "44", "54", "P0"}
"""Classes of PostgreSQL's codes that triggers, functions and limits give, besides those of refused values."""
_WHY_OF_CODES: dict[str, Why] = {
    "08": "the database cannot be reached",
    "25006": "the database is read-only",
    "42501": "the database refuses this server's user",
    "53": "the database takes no more connections",
    "53100": "the database has no space on its disk",
    "55P03": "the database is locked",
    "57014": "the database answers too slowly",
    "57P01": "the database cannot be reached",
    "57P02": "the database cannot be reached",
    "57P03": "the database cannot be reached",
}
"""What strangers see of PostgreSQL's codes, or of their classes (the first two characters)."""
_WHY_OF_SQLITE: dict[int, Why] = {
    sqlite3.SQLITE_BUSY: "the database is locked",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_FULL: "the database has no space on its disk",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be reached",
    sqlite3.SQLITE_CORRUPT: "the file is damaged, or not a database",
    sqlite3.SQLITE_NOTADB: "the file is damaged, or not a database",
    sqlite3.SQLITE_NOMEM: "this server is out of memory",
}
_PLACES = {"host", "hostaddr", "port", "user", "dbname", "service"}
"""Options of a URL that say which database it is."""
_SQLITE_READERS = 4
"""Connections that read a SQLite file, at most: each may use one of the process's threads for SQLite."""


class Database:
    """Transactions on one database.

    Writers and readers have connections of their own, so that neither waits for the other. On SQLite each process has
    one connection that writes, and a writing transaction locks at its beginning (BEGIN IMMEDIATE).
    """

    def __init__(
        self,
        url: str,
        *,
        patience: timedelta = timedelta(seconds=30),
        transaction_limit: timedelta | None = None,
        connections: int = 10,
        setting: str = "DATABASE_URL",
        phones: PhoneStorage = PLAIN,
    ) -> None:
        """Connect to nothing yet.

        ``patience`` bounds every wait: to connect, for a lock, for a connection. ``transaction_limit`` bounds a whole
        transaction on PostgreSQL (None: no limit). ``setting`` names the database in errors. ``phones`` says to those
        who write and search what it holds of phone numbers.
        """
        self.phones = phones
        self._setting = setting
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._sqlite_file = Path(str(self.url.database))
        self._write_lock_file = Path(f"{self.url.database}-write-lock")
        self._patience = patience
        self._transaction_limit = transaction_limit
        self._time_limits = TimeLimits(transaction_limit or patience)
        self._write_engine = self._engine(1 if self.is_sqlite else connections, "BEGIN IMMEDIATE", snapshots=False)
        readers = min(connections, _SQLITE_READERS) if self.is_sqlite else connections
        self._read_engine = self._engine(readers, "BEGIN", snapshots=True)

    @property
    def name(self) -> str:
        """The database in words, without its password and whatever may be one, and without other options."""
        prefix = "" if self._setting == "DATABASE_URL" else f"{self._setting}, "
        if self.is_sqlite:
            return f"{prefix}{self.url.database}"
        shown, places = self.url, {name: value for name, value in self.url.query.items() if name in _PLACES}
        if not is_user_public(self.url):
            shown = shown._replace(username=None, password=None)
            places.pop("user", None)
        return f"{prefix}{shown.set(query=places).render_as_string(hide_password=True)}"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction that writes; it is committed, durably, when the block ends without an error.

        Raises Unavailable, WriteFailed or TransactionLost, with nothing written; but a commit whose answer was lost
        (Unavailable) may be durable. DataError and IntegrityError (the
        database refuses the values) pass as they are.
        """
        patient_until = time.monotonic() + self._patience.total_seconds()
        committing = False
        try:
            with self._write_lock(), self._write_engine.connect() as connection, connection.begin():
                yield connection
                committing = True
        except (DataError, IntegrityError):
            raise
        except MemoryError as error:
            raise Unavailable(f"{self.name}: this process is out of memory", "this server is out of memory") from error
        except SQLAlchemyError as error:
            # A commit whose answer was lost may have succeeded: only its caller can tell whether to do it again.
            may_retry = not committing and time.monotonic() < patient_until
            raise self._described(error, may_retry=may_retry) from error

    @contextmanager
    def snapshot(self, *, limited: bool = True) -> Iterator[Connection]:
        """One transaction that reads the state of one moment; raises Unavailable.

        ``limited``: no longer than ``transaction_limit``; exports and ledgers take as long as they take.
        """
        try:
            with self._read_engine.connect() as connection, connection.begin():
                if not limited:
                    self._time_limits.stop(connection.connection.dbapi_connection)
                yield connection
        except SQLAlchemyError as error:
            raise self._described(error, may_retry=False) from error

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        """On SQLite, wait in one queue with this program's other processes: SQLite itself only polls.

        After ``patience`` the transaction is tried all the same: SQLite's own lock is what protects the data.
        """
        with ExitStack() as stack:
            if self.is_sqlite:
                with suppress(OSError):
                    file = stack.enter_context(self._write_lock_file.open("ab"))
                    files.lock(file, self._patience.total_seconds())
            yield

    def now(self) -> datetime:
        """The time by the database's clock, which all machines that use it share; SQLite's is this machine's."""
        with self.snapshot() as connection:
            return clock(connection)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._time_limits.close()
        self._write_engine.dispose()
        self._read_engine.dispose()

    def migrate(self) -> tuple[str | None, str]:
        """Bring the database to the newest migration; returns the one before and the one after.

        One that a newer program has migrated stays as it is. Where others use the tables, tries again for a minute:
        the lock that a migration waits for keeps callbacks waiting, too. Raises Unavailable (LockTimeout where the
        tables did not become free), and NotMigrated where it cannot be done.
        """
        if self.is_sqlite:
            self._make_folder()
        try:
            return self._migrate()
        except LockTimeout as error:
            raise LockTimeout(f"{error}. {self._who_has_locks()}") from error

    @lock_retrying
    @retrying
    def _migrate(self) -> tuple[str | None, str]:
        with self.transaction() as connection:
            before = schema.upgrade(connection)
            after = schema.current_migration(connection)
        return before, after or ""

    def _who_has_locks(self) -> str:
        with self.snapshot() as connection:
            sessions = schema.sessions_with_locks(connection)
        words = f"These sessions use its tables: {', '.join(sessions)}. " if sessions else ""
        return (
            f"Nothing was changed. {words}Wait until they end, or end one by `SELECT pg_terminate_backend(process)`, "
            "and run `esms-calls migrate` again."
        )

    def check_replica(self) -> None:
        """Raise Unavailable or NotMigrated unless this replica can be read; its words name the setting."""
        try:
            self.check(writes=False)
        except NotMigrated as error:
            words = f"{self._setting} must name a replica of the database of DATABASE_URL, up to date"
            raise NotMigrated(f"{words}. {error}", error.why) from None

    @retrying
    def check(self, *, writes: bool = True) -> None:
        """Raise Unavailable or NotMigrated unless this program can use the database and, if asked, write to it."""
        if self.is_sqlite and self._is_absent():
            raise NotMigrated(
                f"{self.name} does not exist yet: run `esms-calls migrate`, "
                "or say by DATABASE_URL or INSTANCE_DIR where the calls are."
            )
        with self.transaction() if writes else self.snapshot() as connection:
            current = schema.current_migration(connection)
            if writes and current:
                schema.test_write(connection)
        if not schema.is_usable(current):
            raise NotMigrated(
                f"The database is at migration {current or 'none'}, and {schema.newest_migration()} is needed: "
                "run `esms-calls migrate`."
            )

    def _is_absent(self) -> bool:
        try:
            return not self._sqlite_file.exists()
        except OSError:  # This user may not look there: connecting fails, and says so.
            return False

    def _make_folder(self) -> None:
        try:
            files.make_folder(self._sqlite_file.parent)
        except OSError as error:
            raise Unavailable(f"{self.name}: the folder cannot be made: {error.strerror}") from error

    def _engine(self, connections: int, begin: str, *, snapshots: bool) -> Engine:
        if self.is_sqlite:
            return sqlite_engine(self.url, patience=self._patience, connections=connections, begin=begin)
        return postgresql_engine(
            self.url,
            patience=self._patience,
            connections=connections,
            time_limits=self._time_limits,
            transaction_limit=self._transaction_limit,
            snapshots=snapshots,
        )

    def _described(self, error: SQLAlchemyError, *, may_retry: bool) -> Unavailable:
        """The error in words without a secret, and of the kind that says what the caller can do."""
        cause: BaseException = error.orig if isinstance(error, DBAPIError) and error.orig else error
        words = "every connection is in use" if isinstance(error, PoolTimeoutError) else str(cause)
        first = next((line.strip() for line in words.splitlines() if line.strip()), cause.__class__.__name__)
        for secret in secrets_in(self.url):
            first = first.replace(secret, "***")
        if not is_user_public(self.url):
            for user in users_in(self.url):
                first = first.replace(f'"{user}"', '"***"')
        kind = WriteFailed if _caused_by_values(cause) else Unavailable
        if getattr(cause, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            kind, first = LockTimeout, f"another transaction has had a lock for too long ({first})"
        if may_retry and _lost(error):
            kind = TransactionLost
        return kind(f"{self.name}: {first}", _why(cause))


def clock(connection: Connection) -> datetime:
    """What the database's clock says at this very moment, not at the transaction's beginning."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _why(cause: BaseException) -> Why:
    if isinstance(cause, PoolTimeoutError):
        return "the database takes no more connections"
    if isinstance(cause, sqlite3.Error):
        # The last byte is the code, the others say more about it.
        return _WHY_OF_SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF, "the database cannot be used now")
    code = getattr(cause, "sqlstate", None)
    if code is None:
        return "the database cannot be reached"
    return _WHY_OF_CODES.get(code) or _WHY_OF_CODES.get(code[:2], "the database cannot be used now")


def _lost(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _LOST_TO_ANOTHER
    )


def _caused_by_values(cause: BaseException) -> bool:
    if isinstance(cause, sqlite3.Error):
        # Its code for whatever has no other: what a function in a trigger fails with, and also a table that is gone.
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return (getattr(cause, "sqlstate", None) or "")[:2] in _CAUSED_BY_VALUES
