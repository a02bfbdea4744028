"""How the database is reached, what happens when it is not, and that no password is shown to anybody."""

from __future__ import annotations

import os
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, callback, stored_call
from outages import silent_server
from running import free_port
from sql import ask, read, write
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import IntegrityError

from webapp.storage.database import Database
from webapp.storage.errors import NotMigrated, Unavailable, WriteFailed
from webapp.storage.schema import newest_migration
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from webapp.storage.reader import Reader

PASSWORD = "s3cr3t-p@ss/w%rd"
NOBODY = 65534
SHORT = timedelta(seconds=1)

on_sqlite = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)


@contextmanager
def connected(url: str, **options: Any) -> Iterator[Database]:
    """A Database that is closed at the end."""
    database = Database(url, **options)
    try:
        yield database
    finally:
        database.close()


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def scalar(statement: str) -> Any:
    """Work that gives the one value that the statement gives."""
    return lambda connection: connection.scalar(text(statement))


USES: dict[str, Any] = {"write": write, "ask": ask, "read": read}


# What is in force


@on_sqlite
def test_sqlite_uses_wal_full_sync_and_a_busy_timeout(database: Database) -> None:
    def pragmas(connection: Connection) -> list[Any]:
        return [connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "busy_timeout")]

    assert write(database, pragmas) == ["wal", 2, 10_000]
    with database.snapshot(limited=False) as connection:
        assert pragmas(connection) == ["wal", 2, 10_000]


@on_sqlite
def test_a_writing_transaction_on_sqlite_locks_at_its_beginning(database: Database) -> None:
    def another_writes(_connection: Connection) -> None:
        with connected(url_of(database), patience=timedelta(0)) as another, pytest.raises(Unavailable, match="locked"):
            write(another, lambda _: None)

    with database.transaction() as connection:
        another_writes(connection)


@on_postgresql
def test_postgresql_session_has_utc_and_a_lock_timeout(database: Database) -> None:
    for setting, value in {"TimeZone": "UTC", "lock_timeout": "10s"}.items():
        assert write(database, scalar(f"SHOW {setting}")) == value
        with database.snapshot(limited=False) as connection:
            assert connection.scalar(text(f"SHOW {setting}")) == value


@on_postgresql
def test_snapshot_is_repeatable_and_read_only(database: Database) -> None:
    with database.snapshot(limited=False) as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
    with pytest.raises(Unavailable, match="read-only"), database.snapshot(limited=False) as connection:
        connection.execute(text("DELETE FROM calls"))


def test_work_that_fails_leaves_nothing_behind(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO calls (reference_id) VALUES ('a')"))
        raise KeyError

    with pytest.raises(KeyError), database.transaction() as connection:
        work(connection)
    with database.snapshot(limited=False) as connection:
        assert connection.scalar(text("SELECT count(*) FROM calls")) == 0


def test_values_that_the_database_refuses_are_the_callers_and_not_tried_again(database: Database) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("INSERT INTO calls (reference_id) VALUES ('a'), ('a')"))

    with pytest.raises(IntegrityError), database.transaction() as connection:
        work(connection)
    assert len(tries) == 1


# What it does not take


def failing(database: Database, statement: str) -> Unavailable:
    """What a transaction with the statement raises."""
    with pytest.raises(Unavailable) as failed, database.transaction() as connection:
        connection.execute(text(statement))
    return failed.value


@on_postgresql
@pytest.mark.parametrize("code", ["P0001", "P0002", "P0004", "09000", "2F004", "38001", "44000", "54000"])
def test_an_error_of_a_trigger_or_a_limit_speaks_of_what_was_to_be_written(database: Database, code: str) -> None:
    assert isinstance(failing(database, raising(code)), WriteFailed)


@on_postgresql
@pytest.mark.parametrize(
    "code",
    [
        "08006",
        "25006",
        "40001",
        "42501",
        "42P01",
        "53100",
        "53200",
        "53300",
        "55P03",
        "57014",
        "57P01",
        "58030",
        "XX001",
    ],
)
def test_an_error_of_a_postgresql_that_is_full_or_locked_or_away_does_not(database: Database, code: str) -> None:
    assert not isinstance(failing(database, raising(code)), WriteFailed)


def raising(code: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'it is so' USING ERRCODE = '{code}'; END $$"


@on_sqlite
def test_an_error_of_sqlite_speaks_of_what_was_to_be_written_unless_it_is_full_or_locked_or_read_only(
    database: Database,
) -> None:
    assert isinstance(failing(database, "SELECT json_extract('{', '$')"), WriteFailed)

    def full(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(9000000)")

    def read_only(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("DELETE FROM calls")

    def another_writes(_connection: Connection) -> None:
        with connected(url_of(database), patience=timedelta(0)) as another:
            write(another, lambda _: None)

    def out_of_memory(_connection: Connection) -> None:
        raise MemoryError

    for work, words in ((full, "full"), (another_writes, "locked"), (out_of_memory, "memory"), (read_only, "readonly")):
        with pytest.raises(Unavailable, match=words) as failed, database.transaction() as connection:
            work(connection)
        assert not isinstance(failed.value, WriteFailed)


# When it is not there


def assert_no_secret_in(error: BaseException, database: Database, *secrets: str) -> None:
    """Neither the error, nor any that it came from, nor their tracebacks, nor the database's name."""
    shown = [database.name, *traceback.format_exception(error)]
    seen: BaseException | None = error
    while seen is not None:
        shown += [str(seen), repr(seen), repr(seen.args)]
        seen = seen.__cause__ or seen.__context__
    assert not [words for words in shown for secret in secrets if secret in words]


def every_use(database: Database) -> list[Any]:
    def read() -> None:
        with database.snapshot(limited=False) as connection:
            connection.scalar(text("SELECT 1 FROM calls"))

    return [lambda: write(database, lambda connection: connection.execute(text("DELETE FROM calls"))), read]


def test_a_database_whose_folder_is_missing_is_unavailable(tmp_path: Path) -> None:
    with connected(f"sqlite:///{tmp_path}/missing/calls.db") as database:
        for use in every_use(database):
            with pytest.raises(Unavailable, match=r"missing/calls\.db: unable to open"):
                use()


def test_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        connected(f"sqlite:///{tmp_path}/file/folder/calls.db") as database,
        pytest.raises(Unavailable, match=r"calls\.db: the folder cannot be made: Not a directory"),
    ):
        database.migrate()


def test_migrating_makes_the_folder_for_its_owner_only(tmp_path: Path) -> None:
    with connected(f"sqlite:///{tmp_path}/a/b/calls.db") as database:
        database.migrate()
        database.check()

    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "calls.db").write_text("This is a letter. " * 100)
    with connected(f"sqlite:///{tmp_path}/calls.db") as database:
        for use in (*every_use(database), database.migrate, database.check):
            with pytest.raises(Unavailable, match="not a database"):
                use()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere: be nobody for a while, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_cannot_be_written_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.storage.engine._WAL_PAUSE_SECONDS", 0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/calls.db"
        with connected(url) as database:
            database.migrate()
        (folder / "calls.db").chmod(0o444)
        folder.chmod(0o555)
        with unprivileged(), connected(url) as database:
            for use in (*every_use(database)[:1], database.check):
                with pytest.raises(Unavailable, match=r"readonly|unable to open"):
                    use()
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_entered_is_unavailable() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o000)
        with unprivileged(), connected(f"sqlite:///{folder}/calls.db") as database:
            for use in (*every_use(database)[:1], database.check, lambda: database.check(writes=False)):
                with pytest.raises(Unavailable, match="unable to open"):
                    use()
        folder.chmod(0o700)


def test_absent_server_is_unavailable_and_the_password_is_not_shown() -> None:
    url = make_url("postgresql+psycopg://user@127.0.0.1/calls").set(port=free_port(), password=PASSWORD)
    with connected(url.render_as_string(hide_password=False), patience=SHORT) as database:
        for use in (*every_use(database), database.migrate, database.check):
            with pytest.raises(Unavailable, match="connection failed") as caught:
                use()
            assert_no_secret_in(caught.value, database, PASSWORD, "s3cr3t")
        assert database.name == f"postgresql+psycopg://user:***@127.0.0.1:{url.port}/calls"


@pytest.mark.parametrize("option", ["password", "sslpassword"])
def test_password_in_the_query_of_the_url_is_not_shown(option: str) -> None:
    url = f"postgresql+psycopg:///calls?user=me&host=127.0.0.1&port={free_port()}&{option}=s3cr3t"
    with connected(url, patience=SHORT) as database:
        with pytest.raises(Unavailable) as caught:
            database.check()
        assert_no_secret_in(caught.value, database, "s3cr3t")
        assert "127.0.0.1" in database.name


@pytest.mark.parametrize("user", ["s3cr3t", "me%3As3cr3t", "s3cr3t%40x", "%733cr3t"])
@pytest.mark.parametrize("place", ["{user}@127.0.0.1:{port}/calls", "127.0.0.1:{port}/calls?user={user}"])
def test_a_password_in_the_place_of_the_user_is_not_shown(user: str, place: str) -> None:
    url = f"postgresql+psycopg://{place.format(user=user, port=free_port())}"
    with connected(url, patience=SHORT) as database:
        with pytest.raises(Unavailable, match="connection failed") as caught:
            database.check()
        assert_no_secret_in(caught.value, database, "s3cr3t")
        assert "127.0.0.1" in database.name


def test_a_server_that_names_the_user_does_not_show_what_may_be_a_password(postgresql: str) -> None:
    url = make_url(postgresql).set(username="s3cr3t").render_as_string(hide_password=False)
    with connected(url, patience=SHORT) as database, pytest.raises(Unavailable, match=r'role "\*\*\*"') as caught:
        database.check()
    assert "s3cr3t" not in str(caught.value)


@pytest.fixture
def guarded(postgresql: str) -> Iterator[str]:
    """URL of the server for a role that must give its password."""
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE ROLE guarded LOGIN PASSWORD 'right'"))
        file = Path(str(connection.scalar(text("SHOW hba_file"))))
        rules = file.read_text() if file.exists() else None
        if rules is not None:
            file.write_text(f"local all guarded scram-sha-256\nhost all guarded all scram-sha-256\n{rules}")
            connection.execute(text("SELECT pg_reload_conf()"))
    yield make_url(postgresql).set(username="guarded").render_as_string(hide_password=False)
    with engine.connect() as connection:
        if rules is not None:
            file.write_text(rules)
            connection.execute(text("SELECT pg_reload_conf()"))
        connection.execute(text("DROP ROLE guarded"))
    engine.dispose()


def test_wrong_password_is_unavailable_and_is_not_shown(guarded: str) -> None:
    url = make_url(guarded).set(password=PASSWORD).render_as_string(hide_password=False)
    with connected(url, patience=SHORT) as database:
        for use in (*every_use(database), database.migrate, database.check):
            with pytest.raises(Unavailable, match="password authentication failed") as caught:
                use()
            assert_no_secret_in(caught.value, database, PASSWORD, "s3cr3t")


def test_a_database_that_does_not_exist_is_unavailable(postgresql: str) -> None:
    url = make_url(postgresql).set(database="nowhere").render_as_string(hide_password=False)
    with connected(url) as database, pytest.raises(Unavailable, match='"nowhere" does not exist'):
        database.check()


# Whether it is ready


def test_a_migrated_database_is_ready(database: Database) -> None:
    database.check()


def test_a_database_without_tables_is_not_migrated_and_what_to_do_is_said(empty_database_url: str) -> None:
    with connected(empty_database_url) as database:
        for _ in range(2):
            with pytest.raises(NotMigrated, match="run `esms-calls migrate`"):
                database.check()
        if database.is_sqlite:
            assert not Path(str(database.url.database)).exists()
        else:
            with pytest.raises(NotMigrated, match=f"at migration none, and {newest_migration()} is needed"):
                database.check()


def test_a_database_at_another_migration_is_named_with_the_one_that_is_needed(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))

    with pytest.raises(NotMigrated, match=f"at migration 0001, and {newest_migration()} is needed: run `esms-calls"):
        database.check()


def test_migrate_returns_the_revision_before_and_can_be_repeated(empty_database_url: str) -> None:
    with connected(empty_database_url) as database:
        assert database.migrate() == (None, newest_migration())
        assert database.migrate() == (newest_migration(), newest_migration())
        database.check()


@on_postgresql
def test_a_database_that_only_reads_is_not_ready(database: Database) -> None:
    name = database.url.database
    write(
        database,
        lambda connection: connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on")),
    )
    with connected(url_of(database)) as fresh:
        with pytest.raises(Unavailable, match="read-only"):
            fresh.check()
        with pytest.raises(Unavailable, match="read-only"):
            Writer(fresh).record([callback("a", call_status="BUSY")], NOW)


# Tried again


def kill_others(connection: Connection) -> None:
    killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    connection.execute(text(f"{killed} AND pid <> pg_backend_pid()"))


@on_postgresql
def test_a_connection_that_was_killed_meanwhile_is_not_noticed(database: Database, reader: Reader) -> None:
    writer = Writer(database)
    writer.record([callback("a", call_status="BUSY")], NOW)
    assert reader.count() == 1

    with connected(url_of(database)) as another:
        write(another, kill_others)

    assert reader.count() == 1
    with connected(url_of(database)) as another:
        write(another, kill_others)
    assert writer.record([callback("a", call_status="BUSY")], NOW) == ["duplicate"]


@on_postgresql
def test_a_transaction_whose_connection_is_killed_is_done_again_as_a_whole(database: Database) -> None:
    tries = []

    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO calls (reference_id) VALUES ('a')"))
        tries.append(1)
        if len(tries) == 1:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    write(database, work)

    assert len(tries) == 2
    assert stored_call(database, "a").report_count == 0


@on_postgresql
def test_a_connection_that_is_always_killed_is_unavailable_after_ten_tries(database: Database) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(Unavailable, match="terminating connection"):
        write(database, work)
    assert len(tries) == 10


@on_postgresql
def test_of_two_transactions_that_lock_each_other_out_both_succeed(database: Database) -> None:
    writer = Writer(database)
    writer.record([callback("a", call_status="BUSY"), callback("b", call_status="BUSY")], NOW)
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []
    failures: list[BaseException] = []

    def lock(order: str) -> None:
        def work(connection: Connection) -> None:
            tries.append(order)
            connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            for number, name in enumerate(order):
                connection.execute(
                    text("UPDATE calls SET report_count = report_count + 1 WHERE reference_id = :name"), {"name": name}
                )
                if number == 0 and tries.count(order) == 1:
                    both_hold_one.wait(30)

        try:
            write(database, work)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=lock, args=(order,)) for order in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert len(tries) == 3
    assert [stored_call(database, name).report_count for name in "ab"] == [3, 3]


# Waiting


def test_wait_for_a_lock_ends_with_an_error_and_nothing_is_written(database: Database) -> None:
    report = callback("a", call_status="BUSY")
    Writer(database).record([report], NOW)
    later = callback("a", 1, call_status="BUSY")

    with connected(url_of(database), patience=timedelta(seconds=0.15)) as hasty:

        def meanwhile(connection: Connection) -> None:
            connection.execute(text("UPDATE calls SET report_count = report_count"))
            for _ in range(2):
                with pytest.raises(Unavailable, match=r"locked|lock timeout"):
                    Writer(hasty).record([later], NOW)

        with database.transaction() as connection:
            meanwhile(connection)
        assert Writer(hasty).record([later], NOW) == ["duplicate"]


def test_wait_for_a_connection_ends_with_an_error(empty_database_url: str) -> None:
    with connected(empty_database_url, patience=timedelta(seconds=0.2), connections=1) as database:

        def meanwhile(_connection: Connection) -> None:
            with pytest.raises(Unavailable, match="every connection is in use"):
                write(database, lambda _: None)

        with database.transaction() as connection:
            meanwhile(connection)
        write(database, lambda _: None)


def test_readers_do_not_wait_for_the_connections_of_writers(database: Database) -> None:
    def meanwhile(_connection: Connection) -> None:
        with database.snapshot(limited=False) as connection:
            assert connection.scalar(text("SELECT count(*) FROM calls")) == 0

    with connected(url_of(database), patience=SHORT, connections=1) as narrow:
        write(narrow, meanwhile)


# Time limits


@on_postgresql
@pytest.mark.parametrize("use", ["write", "ask"])
def test_a_transaction_that_lasts_too_long_is_cut_and_the_next_is_not(database: Database, use: str) -> None:
    patience, limit = timedelta(seconds=0.4), timedelta(seconds=0.5)
    with connected(url_of(database), patience=patience, transaction_limit=limit) as limited:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            USES[use](limited, scalar("SELECT pg_sleep(60)"))
        assert 0.4 < time.monotonic() - began < 20

        for _ in range(2):
            assert USES[use](limited, scalar("SELECT 1 FROM pg_sleep(0.3)")) == 1


@on_postgresql
def test_what_is_cut_leaves_nothing_behind(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO calls (reference_id) VALUES ('a')"))
        connection.execute(text("SELECT pg_sleep(60)"))

    patience, limit = timedelta(seconds=0.2), timedelta(seconds=0.3)
    with (
        connected(url_of(database), patience=patience, transaction_limit=limit) as limited,
        pytest.raises(Unavailable),
    ):
        write(limited, work)

    assert ask(database, scalar("SELECT count(*) FROM calls")) == 0


@on_postgresql
@pytest.mark.parametrize(
    ("use", "answers", "at_most"),
    [
        ("write", 1, None),
        ("write", 4, timedelta(seconds=30)),
        ("ask", 1, timedelta(seconds=30)),
        ("ask", 4, None),
        ("read", 4, timedelta(seconds=30)),
    ],
)
def test_a_server_that_falls_silent_after_the_log_in_is_unavailable_in_time(
    database: Database, monkeypatch: pytest.MonkeyPatch, use: str, answers: int, at_most: timedelta | None
) -> None:
    half_a_second = timedelta(seconds=0.5)
    monkeypatch.setattr("webapp.storage.engine._SHORTEST_CONNECT_TIMEOUT", half_a_second)
    with (
        silent_server(url_of(database), answers) as (url, proxy),
        connected(url, patience=half_a_second, transaction_limit=at_most) as silent,
    ):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            USES[use](silent, scalar("SELECT 1"))
        assert time.monotonic() - began < 20
        assert proxy.connections == 1, "cut once, and not tried again"


@on_postgresql
@pytest.mark.parametrize("use", ["write", "ask"])
def test_a_connection_that_fell_silent_meanwhile_is_left_in_time(database: Database, use: str) -> None:
    half_a_second = timedelta(seconds=0.5)
    with (
        silent_server(url_of(database)) as (url, proxy),
        connected(url, patience=half_a_second, transaction_limit=half_a_second) as limited,
    ):
        assert USES[use](limited, scalar("SELECT 1")) == 1

        proxy.answers_left = 0
        began = time.monotonic()
        with pytest.raises(Unavailable):
            USES[use](limited, scalar("SELECT 1"))
        assert time.monotonic() - began < 20

        proxy.answers_left = float("inf")
        assert USES[use](limited, scalar("SELECT 1")) == 1


def test_check_without_writes_succeeds_while_another_writes(database: Database) -> None:
    def meanwhile(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
        with connected(url_of(database), patience=timedelta(seconds=0.3)) as another:
            another.check(writes=False)
            with pytest.raises(Unavailable, match=r"locked|lock timeout"):
                another.check()

    with database.transaction() as connection:
        meanwhile(connection)


@on_postgresql
def test_a_database_that_only_reads_can_be_read(database: Database) -> None:
    name = database.url.database
    write(
        database,
        lambda connection: connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on")),
    )
    with connected(url_of(database)) as another:
        another.check(writes=False)
        with pytest.raises(Unavailable, match="read-only"):
            another.check()
