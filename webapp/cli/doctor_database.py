"""Doctor's checks of the database: reached, of the right encoding and migration, writable, its clock and time zone."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from webapp.cli.database_remedies import remedy
from webapp.cli.doctor_check import failed, halves, ok, skipped, warning
from webapp.cli.time_words import duration, time_and_age
from webapp.reconcile import clock
from webapp.storage import schema
from webapp.storage.claims import due_at
from webapp.storage.database import Database
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.storage.status import callbacks
from webapp.storage.time_zone import zone_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.cli.doctor_check import Check
    from webapp.support.settings import Settings

_PATIENCE = timedelta(seconds=5)


class _RollBack(Exception):
    """Ends a transaction that must leave nothing."""


@contextmanager
def database_of(settings: Settings) -> Iterator[Database]:
    """The database, with short waits, closed in the end; its files are then as they were."""
    database = Database(settings.database, patience=_PATIENCE, transaction_limit=_PATIENCE * 2)
    with _last_to_close(database):
        try:
            yield database
        finally:
            database.close()


@contextmanager
def _last_to_close(database: Database) -> Iterator[None]:
    """SQLite's last connection to close puts what is in the -wal file into the database; a read-only one does not."""
    with ExitStack() as stack:
        path = Path(str(database.url.database)).absolute()
        with suppress(sqlite3.Error, OSError):
            if database.is_sqlite and path.with_name(f"{path.name}-wal").exists():
                last = stack.enter_context(closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)))
                last.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        yield


def database_checks(settings: Settings, database: Database) -> Iterator[Check]:
    """The checks of the database, as far as it can be used."""
    path = Path(str(database.url.database))
    if database.is_sqlite and not path.exists():
        yield _no_file(path, settings)
        return
    try:
        began = datetime.now(UTC)
        with database.snapshot() as connection:
            encoding = connection.scalar(text("PRAGMA encoding" if database.is_sqlite else "SHOW server_encoding"))
            took = datetime.now(UTC) - began
            yield ok("database", f"{database.name} answers within {took.total_seconds() * 1000:.0f} ms")
            yield _encoding(str(encoding))
            if not _is_utf8(str(encoding)):
                return
            current = schema.current_migration(connection)
    except Unavailable as error:
        yield failed("database", str(error), remedy(error))
        return
    except NotMigrated as error:
        yield failed("migration", *halves(str(error)))
        return
    yield from _migrated(settings, database, current)


def _no_file(path: Path, settings: Settings) -> Check:
    if (settings.instance_dir.resolve() / "callback_token").exists():
        return failed(
            "database",
            f"{path} does not exist, and a server has run here (its token is there)",
            "`esms-calls restore FILE` of a backup; on a server that has just been set up, `esms-calls migrate`",
        )
    return skipped("database", f"{path} does not exist yet", "`esms-calls serve` makes it")


def _is_utf8(encoding: str) -> bool:
    return encoding.upper().replace("-", "") == "UTF8"


def _encoding(name: str) -> Check:
    if _is_utf8(name):
        return ok("encoding", "UTF-8")
    return failed(
        "encoding",
        f"the database has the encoding {name}, and UTF-8 is needed for text of every language",
        "make a new database (createdb --encoding=UTF8 --template=template0), set DATABASE_URL to it, and run "
        "`esms-calls migrate`",
    )


def _migrated(settings: Settings, database: Database, current: str | None) -> Iterator[Check]:
    newest = schema.newest_migration()
    if not schema.is_usable(current):
        yield failed("migration", f"the database is at {current or 'none'}, and {newest} is needed", _migrate(settings))
        return
    if schema.is_newer(current):
        words = f"a newer version has brought the database to {current}, which this one ({newest}) can use"
        yield warning("migration", words, "upgrade this program, too")
    else:
        yield ok("migration", f"{newest}, the newest")
    yield _writes(database)
    try:
        yield _clock_of_database(database)
        yield _time_zone_check(settings, database)
        yield _last_callback(settings, database)
    except Unavailable as error:
        yield failed("database", str(error), remedy(error))


def _migrate(settings: Settings) -> str:
    return "restart the server, or run `esms-calls migrate`" if settings.is_embedded else "run `esms-calls migrate`"


def _writes(database: Database) -> Check:
    try:
        with suppress(_RollBack), database.transaction() as connection:
            schema.test_write(connection)
            raise _RollBack
    except Unavailable as error:
        return failed("writes", str(error), remedy(error))
    return ok("writes", "the database takes writes")


def _clock_of_database(database: Database) -> Check:
    if database.is_sqlite:
        return ok("clock of the database", "SQLite uses this machine's")
    before = datetime.now(UTC)
    theirs, after = database.now(), datetime.now(UTC)
    return clock_check("clock of the database", "the database's clock", before + (after - before) / 2 - theirs)


def clock_check(name: str, whose: str, ahead: timedelta) -> Check:
    """``ahead`` is how far this machine's clock is ahead of that one."""
    if abs(ahead) > clock.TOLERANCE:
        found, _, remedy = clock.words(whose, ahead).partition(": ")
        return failed(name, found, remedy)
    return ok(name, f"differs by {duration(abs(ahead))} from this machine's")


def _time_zone_check(settings: Settings, database: Database) -> Check:
    wanted = settings.time_zone.key
    with database.snapshot() as connection:
        current = zone_of(connection)
    if current == wanted:
        return ok("time zone", f"days are counted in {wanted}")
    return warning(
        "time zone",
        f"TIME_ZONE is {wanted}, but views and figures count days in {current}",
        f"run `esms-calls time-zone set {wanted}`, or set TIME_ZONE to {current}",
    )


def _last_callback(settings: Settings, database: Database) -> Check:
    now = datetime.now(UTC)
    with database.snapshot() as connection:
        seen = callbacks(connection, due_at(now, settings), now)
    words = f"the last came {time_and_age(seen.last_at, now, settings.time_zone)}"
    how = "place calls with the CallbackUrl that `esms-calls callback-url` prints, and see `public URL` here"
    if seen.have_stopped(now):
        return failed("last callback", f"{words}, longer ago than usual, and calls were placed since", how)
    if seen.last_at is None:
        report = warning if seen.placed_since else skipped
        return report("last callback", "none has come yet", how)
    return ok("last callback", words)


def replica_checks(settings: Settings) -> Iterator[Check]:
    """The check of READ_DATABASE_URL, where it is set."""
    if settings.read_database_url is None:
        return
    replica = Database(settings.read_database_url, patience=_PATIENCE, setting="READ_DATABASE_URL")
    try:
        replica.check_replica()
        yield ok("replica", f"{replica.name.partition(', ')[2]} can be read")
    except Unavailable as error:
        yield failed("replica", str(error), remedy(error))
    except NotMigrated as error:
        yield failed("replica", *halves(str(error)))
    finally:
        replica.close()
