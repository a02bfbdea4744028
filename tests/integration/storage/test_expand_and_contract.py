"""A migration only adds to what the version before uses, so that servers are replaced one by one."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from commands import ON_POSTGRESQL, run
from constants import CALLBACK_TOKEN
from makers import NOW, callback, stored_reports
from schemas import breaks, shape_of
from sqlalchemy import text

from webapp.storage import retry, schema
from webapp.storage.database import Database
from webapp.storage.errors import LockTimeout, NotMigrated
from webapp.storage.schema import newest_migration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient
    from schemas import Shape

    from webapp.storage.writer import Writer

pytestmark = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")

ROOT = Path(__file__).parents[3]
HISTORY = {
    "0004": "call_trails and lookup_pace were caches; there was no public version yet",
}
"""Migrations before the first public version. The list does not grow."""
CONTRACTING = {
    "0013": "reports are unique by their call and id: found by id alone, they would be searched for in the whole table",
}
"""Migrations that take away what no version of the last release uses, with the reason."""
REVISIONS = sorted(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def migrate_to(database: Database, revision: str) -> None:
    config = Config(ROOT / "alembic.ini")
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def shape(database: Database) -> Shape:
    with database.snapshot(limited=False) as connection:
        return shape_of(connection)


def test_no_migration_drops_or_renames_what_the_version_before_uses(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    found: dict[str, list[str]] = {}
    try:
        migrate_to(database, REVISIONS[0])
        before = shape(database)
        for revision in REVISIONS[1:]:
            migrate_to(database, revision)
            after = shape(database)
            if broken := sorted(breaks(before, after)):
                found[revision] = broken
            before = after
            if revision in CONTRACTING:
                assert usable_from(database) >= revision, f"{revision} must say so in schema_compatibility"
    finally:
        database.close()
    unexpected = {revision: words for revision, words in found.items() if revision not in HISTORY | CONTRACTING}
    assert unexpected == {}, "expand and contract: see migrations/script.py.mako"
    assert found.keys() == HISTORY.keys() | CONTRACTING.keys(), "an exception that is none"


def usable_from(database: Database) -> str:
    with database.snapshot() as connection:
        return str(connection.scalar(text("SELECT usable_from FROM schema_compatibility")))


PORTABLE = [
    ("DROP VIEW missing_calls", "missing_calls.reference_id is gone or renamed"),
    ("ALTER TABLE rejected_callbacks RENAME COLUMN method TO verb", "rejected_callbacks.method is gone or renamed"),
    ("ALTER TABLE reconcile_runs DROP COLUMN host", "reconcile_runs.host is gone or renamed"),
    ("DROP TABLE due_replay", "due_replay.since is gone or renamed"),
    ("CREATE UNIQUE INDEX uq ON calls (cid)", "calls has a new unique key of cid"),
    ("ALTER TABLE calls ADD COLUMN size integer NOT NULL DEFAULT 0", None),
    ("ALTER TABLE calls ADD COLUMN size integer", None),
    ("CREATE TABLE new (id integer PRIMARY KEY)", None),
    ("CREATE INDEX ix_new ON calls (cid)", None),
    ("DROP INDEX ix_calls_settled_at", None),
]
ON_POSTGRESQL_ALONE = [
    ("ALTER TABLE calls ALTER COLUMN cid SET NOT NULL", "calls.cid must not be NULL any more"),
    ("ALTER TABLE calls ALTER COLUMN conflict DROP DEFAULT", "calls.conflict has no default any more"),
    (
        "ALTER TABLE rejected_callbacks ALTER COLUMN count TYPE numeric",
        "rejected_callbacks.count was BIGINT and is NUMERIC",
    ),
    ("ALTER TABLE calls ADD COLUMN size integer NOT NULL", "calls.size is new and needs a value"),
    ("ALTER TABLE calls ADD CHECK (lookup_count < 9)", "calls has a new condition: lookup_count < 9"),
    (
        "ALTER TABLE status_reports ADD FOREIGN KEY (reference_id) REFERENCES calls",
        "status_reports has a new condition: ['reference_id'] in calls",
    ),
    (
        "ALTER TABLE wrong_token_requests DROP CONSTRAINT pk_wrong_token_requests",
        "wrong_token_requests has no unique key of hour any more",
    ),
]


class _Undo(Exception):
    pass


def test_what_would_break_the_version_before_is_found(database: Database) -> None:
    before = shape(database)
    for statement, words in PORTABLE if database.is_sqlite else [*PORTABLE, *ON_POSTGRESQL_ALONE]:
        with contextlib.suppress(_Undo), database.transaction() as connection:
            connection.execute(text(statement))
            found = list(breaks(before, shape_of(connection)))
            raise _Undo
        assert (words in found) if words else (found == []), statement


# A program on the schema of a newer one


def be_newer(database: Database, *, usable_from: str) -> None:
    """As a newer version's migration leaves it."""
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE calls ADD COLUMN mood text"))
        connection.execute(text("ALTER TABLE status_reports ADD COLUMN mood text NOT NULL DEFAULT 'none'"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9876'"))
        compatible = text("UPDATE schema_compatibility SET migration = '9876', usable_from = :it")
        connection.execute(compatible, {"it": usable_from})


def test_a_program_serves_on_the_schema_of_a_newer_one(client: FlaskClient, database: Database) -> None:
    be_newer(database, usable_from=newest_migration())

    assert client.get("/readyz").status_code == 200
    assert client.get(f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId=a&SendStatus=5").json == {"result": "settled"}
    assert stored_reports(database, "a")
    result = run("migrate")
    assert result.exit_code == 0
    assert f"is at migration 9876 (a newer version's; this one needs {newest_migration()}" in result.stdout
    result = run("time-zone", "set", "UTC")
    assert (result.exit_code, "use that version for this" in result.stderr) == (1, True)


def test_a_program_refuses_a_schema_that_lacks_what_it_uses(client: FlaskClient, database: Database) -> None:
    be_newer(database, usable_from="9876")

    answer = client.get("/readyz")
    assert (answer.status_code, "upgrade esms-calls" in answer.text) == (503, True)
    with pytest.raises(NotMigrated, match="Upgrade this one to that version"):
        database.migrate()


# Locks


NEW = """
from alembic import op
revision = "9876"
down_revision = "%s"
def upgrade():
    op.execute("ALTER TABLE calls ADD COLUMN mood text")
"""


@pytest.fixture
def next_version(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: ARG001
    """The next version's migrations: one more than today's, which needs a strong lock on the table of calls.

    The database is made before, or this process could make the template of all tests with that migration.
    """
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for file in (
        "env.py",
        "script.py.mako",
        *(f"versions/{path.name}" for path in (ROOT / "migrations" / "versions").glob("*.py")),
    ):
        (folder / file).write_text((ROOT / "migrations" / file).read_text())
    (folder / "versions" / "9876_mood.py").write_text(NEW % newest_migration())
    monkeypatch.setattr(schema, "_migrations", lambda: folder)
    monkeypatch.setattr(retry, "_LOCK_PAUSE_SECONDS", 0.3)
    schema._known_revisions.cache_clear()  # noqa: SLF001
    yield
    monkeypatch.undo()
    schema._known_revisions.cache_clear()  # noqa: SLF001


@ON_POSTGRESQL
@pytest.mark.usefixtures("next_version")
def test_a_migration_behind_a_long_export_waits_a_second_at_a_time_and_callbacks_go_on(
    database: Database, writer: Writer
) -> None:
    done: list[tuple[str | None, str]] = []
    slowest = 0.0
    migration = threading.Thread(target=lambda: done.append(database.migrate()))
    with database.snapshot() as export:
        export.execute(text("SELECT count(*) FROM calls"))
        migration.start()
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            started = time.monotonic()
            writer.record([callback(f"call-{started}", 1)], NOW)
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.05)
        assert done == []
    migration.join(20)

    assert done == [(REVISIONS[-1], "9876")]
    assert slowest < 2, "no callback waits much longer than one attempt"
    database.check()


@ON_POSTGRESQL
@pytest.mark.usefixtures("next_version")
def test_a_migration_that_gets_no_lock_changes_nothing_and_names_who_has_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LOCK_PATIENCE_SECONDS", 0)
    with database.snapshot() as export:
        export.execute(text("SELECT count(*) FROM calls"))
        process = export.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(
            LockTimeout, match=f"These sessions use its tables: process {process} .role postgres"
        ) as error:
            database.migrate()
    assert "Nothing was changed" in str(error.value)
    assert "SELECT pg_terminate_backend" in str(error.value)
    assert database.migrate() == (REVISIONS[-1], "9876")
