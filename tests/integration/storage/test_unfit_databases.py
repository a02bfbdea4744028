"""Databases that this program neither uses nor migrates: each kind has its own words, the same for every command."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from commands import run
from constants import CALLBACK_TOKEN
from running import free_port
from sqlalchemy import create_engine, make_url, text

from webapp import create_app
from webapp.storage.database import Database
from webapp.storage.errors import NotMigrated
from webapp.storage.schema import newest_migration
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

REMEDY = "Make a database for esms-calls alone, and set DATABASE_URL to it."
NEEDED = newest_migration()
OTHER = "1975ea83b712"
ONLY_THE_NEWEST = f"DELETE FROM alembic_version WHERE version_num <> '{NEEDED}'"  # noqa: S608
KINDS = {
    "newer": (
        ["UPDATE alembic_version SET version_num = '9876'"],
        f"is at migration 9876, which this program does not know (it needs {NEEDED}): a newer version of esms-calls",
        "Upgrade this one to that version.",
    ),
    "another application's": (
        ["UPDATE alembic_version SET version_num = '1975ea83b712'"],
        f"belongs to another application: its alembic_version is at '{OTHER}', which is no migration of esms-calls.",
        REMEDY,
    ),
    "two heads": (
        ["INSERT INTO alembic_version VALUES ('0003')"],
        f"is at 2 migrations at once ('0003', '{NEEDED}'), as after a restore into a database that was not empty.",
        f"run `{ONLY_THE_NEWEST}`, then `esms-calls migrate`.",
    ),
    "two applications": (
        ["INSERT INTO alembic_version VALUES ('1975ea83b712')"],
        f"is at 2 migrations at once ('{NEEDED}', '{OTHER}'), and not all of them are of esms-calls: another",
        REMEDY,
    ),
    "without a version": (
        [
            "DROP TABLE alembic_version",
            "ALTER TABLE status_reports RENAME TO one",
            "ALTER TABLE reconcile_runs RENAME TO other",
        ],
        "If they are a copy of esms-calls' tables, copy alembic_version too. Otherwise another",
        REMEDY,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("settings")
def test_what_is_wrong_and_what_to_do_is_said_by_every_command(database: Database, kind: str) -> None:
    statements, words, remedy = KINDS[kind]
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))

    for command in (["migrate"], ["serve", "--bind", f"127.0.0.1:{free_port()}"], ["status"], ["export"]):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert words in result.stderr
        assert remedy in result.stderr
        assert "bug" not in result.stderr


def test_after_the_advice_of_two_heads_the_database_is_migrated(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO alembic_version VALUES ('0003')"))
        connection.execute(text(ONLY_THE_NEWEST))
    assert database.migrate() == (NEEDED, NEEDED)
    database.check()


def test_a_table_of_another_application_with_one_of_our_names_is_left_alone(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE calls (number integer)"))
    database = Database(empty_database_url)
    try:
        for use in (database.migrate, database.check):
            with pytest.raises(
                NotMigrated, match=r"tables with this program's names \(calls\), and its alembic_version"
            ):
                use()
    finally:
        database.close()
    with engine.begin() as connection:
        assert connection.execute(text("SELECT * FROM calls")).keys() == ["number"]
    engine.dispose()


@contextmanager
def encoded(server: str, encoding: str) -> Iterator[str]:
    """URL of a database in that encoding."""
    name = f"test_{uuid.uuid4().hex}"
    url = make_url(server)
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
    ) as connection:
        create = f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(create.encode())
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_database_that_is_not_utf_8_is_refused_and_callbacks_wait_in_the_spool(
    postgresql: str, encoding: str, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings
    words = f"The database has the encoding {encoding}, and esms-calls needs UTF8"
    with encoded(postgresql, encoding) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        for command in (["migrate"], ["serve", "--bind", f"127.0.0.1:{free_port()}"], ["status"]):
            result = run(*command)
            assert (result.exit_code, result.stdout) == (1, "")
            assert words in result.stderr
            assert "createdb --encoding=UTF8 --template=template0" in result.stderr
            assert "bug" not in result.stderr

        monkeypatch.setenv("ANSWER_WITHIN", "60s")  # a busy disk may take its time
        app = create_app(load_settings())
        ingest = app.extensions["ingest"]
        try:
            ingest.start()
            client = app.test_client()
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json
            assert ready.json["reason"] == "the database is not in UTF8"
            answer = client.get(f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId=a&SendStatus=5")
            assert (answer.status_code, answer.json) == (200, {"result": "spooled"})
        finally:
            app.extensions["token_counter"].close()
            app.extensions["database"].close()
            ingest.close()
