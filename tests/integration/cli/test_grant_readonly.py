"""The command grant-readonly: what the role may do on a real PostgreSQL, and what it may not."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic import command
from commands import ON_POSTGRESQL, ON_SQLITE, SET, done, run
from makers import NOW, callback
from psycopg import sql

from webapp.storage import schema
from webapp.storage.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

pytestmark = SET
VIEWS = [view.name for view in schema.views_module().views(schema.views_module().words_of("postgresql", "UTC", 0))]
READABLE = [*Base.metadata.tables, *VIEWS, "alembic_version"]


@contextmanager
def session(database: Database, user: str | None = None) -> Iterator[psycopg.Connection[Any]]:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, user=user or database.url.username) as connection:
        yield connection


def setting(connection: psycopg.Connection[Any], name: str) -> str:
    return connection.execute("SELECT current_setting(%s)", [name]).fetchall()[0][0]  # type: ignore[no-any-return]


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A name that no role has yet; the role that gets it goes with the test."""
    name = f'an "analyst" of 100%s {uuid.uuid4().hex[:8]} $do$ \'\\'
    yield name
    with session(database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone():
            for template in ("DROP OWNED BY {}", "DROP ROLE {}"):
                connection.execute(sql.SQL(template).format(sql.Identifier(name)))


def read_everything(database: Database, role: str) -> dict[str, int]:
    """The number of rows of each table and view, as the role reads it."""
    counted = {}
    with session(database, role) as connection:
        for name in READABLE:
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()
            counted[name] = row[0] if row else -1
    return counted


@ON_POSTGRESQL
def test_the_role_reads_every_table_and_view_and_nothing_else(database: Database, writer: Writer, role: str) -> None:
    writer.record([callback("a", call_status="ANSWERED")], NOW)
    with session(database) as connection:
        connection.execute("CREATE TABLE others (secret text)")
        connection.execute("CREATE SCHEMA theirs")
        connection.execute("CREATE TABLE theirs.others (secret text)")

    printed = done("grant-readonly", role, "--run")

    assert "reads the tables and views, and does nothing else" in printed
    counted = read_everything(database, role)
    assert (counted["calls"], counted["call_facts"], counted["report_history"]) == (1, 1, 1)
    refused = [
        *(f"SELECT * FROM {name}" for name in ("others", "theirs.others", "pg_authid")),  # noqa: S608
        *(f"DELETE FROM {name}" for name in READABLE),  # noqa: S608
        "INSERT INTO rollup_marks (hour, marked_at) VALUES (now(), now())",
        "UPDATE calls SET campaign = 'x'",
        "TRUNCATE calls",
        "DROP VIEW call_facts",
        "ALTER TABLE calls ADD COLUMN x integer",
        "CREATE TABLE mine (x integer)",
        "CREATE TEMPORARY TABLE mine (x integer)",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SELECT lo_creat(-1)",
        "SELECT lo_from_bytea(0, 'x')",
        "CREATE ROLE another",
        "COPY calls TO PROGRAM 'cat'",
    ]
    with session(database, role) as connection:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("UPDATE calls SET campaign = 'x'")
        connection.execute("SET default_transaction_read_only = off")
        for statement in refused:
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
                connection.execute(statement.encode())
    assert read_everything(database, role) == counted


@ON_POSTGRESQL
def test_the_role_has_time_limits_and_a_limit_of_connections(database: Database, role: str) -> None:
    done("grant-readonly", role, "--run", "--statement-timeout", "1s", "--connections", "2")

    with session(database, role) as first, session(database, role):
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"), session(database, role):
            pass
        names = ("statement_timeout", "idle_in_transaction_session_timeout", "default_transaction_read_only")
        shown = [setting(first, name) for name in names]
        first.execute("SET statement_timeout = '50ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            first.execute("SELECT pg_sleep(5)")
    assert shown == ["1s", "1min", "on"]

    done("grant-readonly", role, "--run", "--connections", "3")

    with session(database, role) as one, session(database, role), session(database, role):
        assert setting(one, "statement_timeout") == "1min"


@ON_POSTGRESQL
def test_the_printed_sql_does_the_same_twice_over(database: Database, role: str) -> None:
    printed = done("grant-readonly", role)

    assert printed.startswith("BEGIN;\nDO $")
    assert printed.endswith("COMMIT;\n")
    for _ in range(2):
        with session(database) as connection:
            connection.execute(printed.encode())
        assert set(read_everything(database, role)) == set(READABLE)


@ON_POSTGRESQL
def test_views_made_anew_and_later_tables_are_read_too(database: Database, role: str) -> None:
    done("grant-readonly", role, "--run")

    done("time-zone", "set", "Europe/Berlin")
    in_berlin = read_everything(database, role)
    config = schema._alembic_config()  # noqa: SLF001 - the one way to go back
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
    done("migrate")

    assert set(in_berlin) == set(read_everything(database, role)) == set(READABLE)
    with session(database, role) as one, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        one.execute("DELETE FROM calls")


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("SUPERUSER", "is a superuser, or may make roles or databases"),
        ("CREATEROLE", "is a superuser, or may make roles or databases"),
        ("IN ROLE pg_read_all_data", "is a member of other roles"),
        ("owner", "owns tables or other objects"),
    ],
)
def test_a_role_that_may_do_more_is_refused_and_stays_as_it_was(
    database: Database, role: str, made: str, words: str
) -> None:
    identifier = sql.Identifier(role)
    with session(database) as connection:
        options = sql.SQL("" if made == "owner" else made)
        connection.execute(sql.SQL("CREATE ROLE {} {}").format(identifier, options))
        if made == "owner":
            connection.execute(sql.SQL("CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO {}").format(identifier))

    result = run("grant-readonly", role, "--run")

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{words}: name a role that only reads. Nothing was changed." in result.stderr
    with session(database) as connection:
        found = connection.execute(
            "SELECT rolcanlogin, rolconnlimit FROM pg_roles WHERE rolname = %s", [role]
        ).fetchone()
    assert found == (False, -1)


@ON_POSTGRESQL
def test_rights_that_the_role_had_are_taken_away(database: Database, role: str) -> None:
    identifier = sql.Identifier(role)
    with session(database) as connection:
        for template in ("CREATE ROLE {}", "GRANT ALL ON calls TO {}", "GRANT UPDATE (campaign) ON calls TO {}"):
            connection.execute(sql.SQL(template).format(identifier))

    done("grant-readonly", role, "--run")

    with session(database, role) as one:
        one.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            one.execute("UPDATE calls SET campaign = 'x'")


@ON_POSTGRESQL
def test_the_password_is_asked_for_twice_and_sent_as_a_hash(database: Database, role: str) -> None:
    password = "mật khẩu của tôi"
    answers = f"{password}\n{password}\n"

    result = run("grant-readonly", role, "--run", "--password-prompt", stdin=answers)

    assert result.exit_code == 0
    assert password not in result.output
    with session(database) as connection:
        stored = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role]).fetchone()
    assert stored
    assert stored[0].startswith("SCRAM-SHA-256$")


@ON_POSTGRESQL
def test_a_user_that_may_not_grant_has_to_print_the_statements(
    database: Database, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("grant-readonly", role, "--run")
    monkeypatch.setenv("PGUSER", role)
    monkeypatch.setenv("DATABASE_URL", database.url._replace(username=None).render_as_string(hide_password=False))

    result = run("grant-readonly", "another", "--run")

    assert result.exit_code == 1
    assert "Nothing was changed" in result.stderr
    assert "This is a bug" not in result.stderr
    assert done("grant-readonly", "another").startswith("BEGIN;")


@ON_SQLITE
def test_sqlite_has_no_roles_and_the_file_can_be_read_only(database: Database) -> None:
    result = run("grant-readonly", "analyst", "--run")

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"sqlite3 'file:{database.name}?mode=ro'" in result.stderr


@ON_SQLITE
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["public"], "is reserved by PostgreSQL"),
        (["pg_analyst"], "is reserved by PostgreSQL"),
        (["a" * 64], "must have 1 to 63 bytes"),
        (["ă" * 32], "must have 1 to 63 bytes"),
        ([""], "must have 1 to 63 bytes"),
        (["a\nb"], "all of them printable"),
        (["a", "--password-prompt"], "goes together with --run"),
        (["a", "--statement-timeout", "0s"], "must be longer than 0s"),
    ],
)
def test_a_wrong_name_or_option_is_refused(arguments: list[str], words: str) -> None:
    result = run("grant-readonly", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())
