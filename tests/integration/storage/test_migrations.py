"""The migrations: up, down and up again with data, the same tables as the models', from a checkout and from a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from makers import NOW, callback, change_by_hand, stored_call, stored_reports
from sql import write
from sqlalchemy import BigInteger, inspect, text

from webapp.calls.rule import Registration
from webapp.esms import parameters
from webapp.storage import lookup_latencies, lookup_rate, rollups, token_counts
from webapp.storage.database import Database
from webapp.storage.errors import NotMigrated
from webapp.storage.lookup_latencies import Latencies
from webapp.storage.models import Base, call_rollups, due_replay, phone_key
from webapp.storage.rejected import Rejected
from webapp.storage.runs import Run, start_run
from webapp.storage.schema import newest_migration
from webapp.storage.token_counts import HourCount
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

ROOT = Path(__file__).parents[3]
TABLES = {
    "calls",
    "lookup_rate",
    "lookup_latencies",
    "status_reports",
    "rejected_callbacks",
    "reconcile_runs",
    "wrong_token_requests",
    "not_allowed_requests",
    "callback_token_requests",
    "due_replay",
    "call_rollups",
    "kept_rollups",
    "phone_key",
    "rollup_marks",
    "rollup_version",
    "schema_compatibility",
}
LOCAL_DAYS = "ix_calls_local_day"
"""An index of an expression with the time zone in it, which no model can have."""


def migrate_to(database: Database, revision: str) -> None:
    """What ``alembic upgrade`` and ``alembic downgrade`` do."""
    config = Config(ROOT / "alembic.ini")

    def work(connection: Connection) -> None:
        config.attributes["connection"] = connection
        (command.downgrade if revision in {"base", "0001"} else command.upgrade)(config, revision)

    with database.transaction() as connection:
        work(connection)


def rows(database: Database) -> dict[str, list[Any]]:
    """All that the tables hold, by their names."""
    with database.snapshot(limited=False) as connection:
        return {
            table.name: sorted(connection.execute(table.select()), key=str) for table in Base.metadata.tables.values()
        }


def test_the_file_of_a_migration_begins_with_its_revision_and_the_last_is_the_newest() -> None:
    scripts = ScriptDirectory(str(ROOT / "migrations"))

    assert [Path(script.path).name[:5] for script in scripts.walk_revisions()] == [
        f"{script.revision}_" for script in scripts.walk_revisions()
    ]
    assert newest_migration() == scripts.get_current_head()


def fill(database: Database) -> None:
    """A row and more in every table."""
    writer = Writer(database)
    writer.record([callback("a", 1, call_status="BUSY"), callback("b", 2, call_status="ANSWERED")], NOW)
    writer.register([Registration(reference_id="a", phone="849", campaign="tet")], NOW)
    start_run(database, Run(id=parameters.new_id(), started_at=NOW, host="here"), lease=timedelta(minutes=1))
    lookup_rate.slow_down(database, 0, halve=False)
    latencies = Latencies()
    latencies.note("100", 1.0)
    lookup_latencies.add(database, latencies)
    counts = [
        HourCount(NOW, 1, NOW),
        HourCount(NOW, 2, NOW, "abcd"),
        HourCount(NOW, 3, NOW, token_counts.NOT_ALLOWED_ADDRESS),
    ]
    write(database, lambda connection: token_counts.add(connection, counts, NOW))
    write(database, lambda connection: connection.execute(due_replay.insert().values(one=1, since=NOW)))
    usual = {"remote_addr": None, "method": "GET", "content_type": None, "payload": "{}", "reason": "is missing"}
    writer.reject(Rejected(id=parameters.new_id(), received_at=NOW, **usual))  # type: ignore[arg-type]
    rollups.refresh(database)
    write(database, lambda connection: rollups.keep_totals(connection, ["a"]))
    write(database, lambda connection: connection.execute(phone_key.insert().values(one=1, fingerprint="f", since=NOW)))
    writer.record([callback("c", 3)], NOW)


def test_up_down_and_up_again_with_data(database: Database) -> None:
    fill(database)
    assert all(rows(database).values())

    migrate_to(database, "base")
    with database.snapshot(limited=False) as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
        assert MigrationContext.configure(connection).get_current_revision() is None

    migrate_to(database, "head")
    database.check()
    assert {name for name, found in rows(database).items() if found} == {"schema_compatibility"}
    fill(database)
    assert len(rows(database)["calls"]) == 3


def test_the_migrations_after_the_first_go_down_and_up_again_and_keep_all_calls(database: Database) -> None:
    fill(database)
    before = rows(database)

    migrate_to(database, "0001")
    with pytest.raises(NotMigrated):
        database.check()
    migrate_to(database, "head")

    database.check()
    after = rows(database)
    assert len(after.pop("due_replay")) == 1, "the histories are to be folded by the newer rule"
    assert (after.pop("lookup_rate"), after.pop("wrong_token_requests"), after.pop("call_rollups")) == ([], [], [])
    assert (after.pop("rollup_version"), after.pop("kept_rollups"), after.pop("lookup_latencies")) == ([], [], [])
    assert after.pop("callback_token_requests") == after.pop("not_allowed_requests") == []
    assert after.pop("phone_key") == []
    assert [row.hour for row in after.pop("rollup_marks")] == [NOW], "the figures are to be made anew"
    assert {name: list(map(without_new_columns, found)) for name, found in after.items()} == {
        name: list(map(without_new_columns, before[name])) for name in after
    }


def without_new_columns(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name not in {"kind", "esms_id", "phone_e164"}}  # noqa: SLF001


def test_migrating_again_touches_no_data(database: Database) -> None:
    fill(database)
    before = rows(database)

    migrate_to(database, "head")
    database.migrate()

    assert rows(database) == before


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty_database_url: str) -> None:
    database = Database(empty_database_url)

    def work(connection: Connection) -> None:
        config = Config(ROOT / "alembic.ini")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        raise KeyError

    try:
        with pytest.raises(KeyError), database.transaction() as connection:
            work(connection)
        with database.snapshot(limited=False) as connection:
            assert inspect(connection).get_table_names() == []
        database.migrate()
        database.check()
    finally:
        database.close()


# Migrations and models agree


@pytest.mark.filterwarnings(f"ignore:Skipped unsupported reflection of expression-based index ({LOCAL_DAYS}|uq_kept_)")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index 'uq_kept_rollups'")
def test_alembic_finds_no_difference_between_the_models_and_the_migrations(database: Database) -> None:
    with database.snapshot(limited=False) as connection:
        options = {"compare_type": True, "include_object": lambda _object, name, *_rest: name != LOCAL_DAYS}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


SHAPE_ON_SQLITE = (
    "SELECT m.name, c.* FROM sqlite_master m, pragma_table_info(m.name) c",
    "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "SELECT m.name, i.name, i.origin FROM sqlite_master m, pragma_index_list(m.name) i",
)
SHAPE_ON_POSTGRESQL = (
    "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable FROM information_schema.columns",
    "SELECT table_name, column_name, numeric_precision, numeric_scale, collation_name FROM information_schema.columns",
    "SELECT table_name, column_name, column_default FROM information_schema.columns",
    "SELECT tablename, indexname, indexdef FROM pg_indexes",
    "SELECT relname, conname, pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN pg_class t ON conrelid = t.oid",
    "SELECT relname, objsubid, description FROM pg_description JOIN pg_class ON objoid = oid WHERE relkind = 'r'",
)


def shape(database: Database) -> list[tuple[Any, ...]]:
    """Every column, index, constraint and comment, in the database's own words."""
    with database.snapshot(limited=False) as connection:
        reader = SHAPE_ON_SQLITE if database.is_sqlite else SHAPE_ON_POSTGRESQL
        found = [tuple(row) for query in reader for row in connection.exec_driver_sql(query)]
    # The times that the database itself fills in are the migrations' own business.
    times = re.compile(r"now\(\)|strftime\(.*\)")
    ours = [row for row in found if row[0] in TABLES and LOCAL_DAYS not in row]
    return sorted(
        (tuple(None if times.fullmatch(str(word)) else word for word in row) for row in ours),
        key=str,
    )


def test_the_models_would_make_the_same_columns_indexes_constraints_and_comments(database: Database) -> None:
    migrated = shape(database)
    migrate_to(database, "base")
    write(database, Base.metadata.create_all)

    assert shape(database) == migrated
    assert {row[0] for row in migrated} == TABLES


# Comments, types and defaults


def test_every_table_and_column_of_the_models_says_what_it_holds() -> None:
    assert Base.metadata.tables.keys() == TABLES
    for table in Base.metadata.tables.values():
        for comment in (table.comment, *(column.comment for column in table.columns)):
            assert comment
            assert "*/" not in comment


def test_every_table_and_column_of_the_database_says_what_it_holds(database: Database) -> None:
    """SQLite keeps the comments that columns were made with."""
    newest_first = [script.module for script in ScriptDirectory(str(ROOT / "migrations")).walk_revisions()]
    corrected = [one for module in newest_first for one in getattr(module, "COMMENTS", {}).items()]
    first = {column: comments[0] for column, comments in corrected}
    with database.snapshot(limited=False) as connection:
        for table in Base.metadata.tables.values():
            if database.is_sqlite:
                query = text("SELECT sql FROM sqlite_master WHERE name = :name")
                sql = str(connection.scalar(query, {"name": table.name}))
                assert sql.startswith(f"CREATE TABLE {table.name} ( /* {table.comment} */")
                for column in table.columns:
                    comment = first.get(str(column), str(column.comment))
                    assert re.search(rf'\b{column.name}"? [^/]*/\* {re.escape(comment)} \*/', sql)
            else:
                seen = inspect(connection)
                assert seen.get_table_comment(table.name) == {"text": table.comment}
                comments = {column["name"]: column["comment"] for column in seen.get_columns(table.name)}
                assert comments == {column.name: column.comment for column in table.columns}


TYPES_ON_POSTGRESQL = {
    "id": "uuid",
    "local_day": "date",
    "price": "numeric",
    "conflict": "boolean",
    "price_conflict": "boolean",
    "hour": "timestamp with time zone",
    "since": "timestamp with time zone",
    "send_status": "smallint",
    "sent_result": "smallint",
    "count": "bigint",
    "one": "smallint",
    "version": "bigint",
    "lookups": "bigint",
    "share": "double precision",
    "seconds": "double precision",
    "claimed_until": "timestamp with time zone",
}
COUNTS = {"edge_ms", "call_duration", "report_count", "lookup_count", "lookup_backoff", "size"}
COUNTS |= {"checked", "settled", "pending", "not_found", "failed", "gave_up"}


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_the_types_on_postgresql(database: Database) -> None:
    query = text(
        "SELECT table_name, column_name, data_type, numeric_precision, numeric_scale, collation_name"
        " FROM information_schema.columns WHERE table_schema = 'public'"
    )
    with database.snapshot(limited=False) as connection:
        found = [row for row in connection.execute(query) if row.table_name in TABLES]
    figures = {column.name for column in call_rollups.columns if isinstance(column.type, BigInteger)}
    with_figures = {"call_rollups", "kept_rollups"}
    assert {row.data_type for row in found if row.table_name in with_figures and row.column_name in figures} == {
        "bigint"
    }
    for row in found:
        if (row.table_name in with_figures and row.column_name in figures) or row.table_name == "rollup_marks":
            continue
        usual = "timestamp with time zone" if row.column_name.endswith("_at") else "text"
        usual = "integer" if row.column_name in COUNTS else usual
        assert row.data_type == TYPES_ON_POSTGRESQL.get(row.column_name, usual), row
        assert row.column_name != "price" or (row.numeric_precision, row.numeric_scale) == (14, 4)
        assert row.column_name != "reference_id" or row.collation_name == "C"


def test_what_sqlite_keeps_of_times_ids_prices_and_booleans(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/calls.db")
    database.migrate()
    report = callback("a", 1, call_status="BUSY", price=Decimal("450.0000"))
    Writer(database).record([report], NOW)
    change_by_hand(database, "INSERT INTO calls (reference_id, price) VALUES ('b', '9999999999.9999'), ('c', '0.0001')")

    with database.snapshot(limited=False) as connection:
        kept = connection.exec_driver_sql(
            "SELECT placed_at, conflict, typeof(conflict), typeof(c.price), c.price, r.id, length(r.id), received_at"
            " FROM calls c JOIN status_reports r USING (reference_id)"
        ).one()
        prices = connection.exec_driver_sql("SELECT typeof(price), price > 0 FROM calls ORDER BY 1").all()
        kinds = connection.exec_driver_sql("SELECT type FROM pragma_table_info('calls') WHERE name = 'price'").scalar()
    database.close()
    moment = "2026-11-23T10:00:01.000000Z"
    assert tuple(kept) == (moment, 0, "integer", "integer", 450, str(report.id), 36, moment)
    assert [tuple(row) for row in prices] == [("integer", 1), ("real", 1), ("real", 1)]
    assert kinds == "NUMERIC(14, 4)"


def test_a_call_can_be_inserted_with_nothing_but_its_id(database: Database) -> None:
    change_by_hand(database, "INSERT INTO calls (reference_id) VALUES ('by-hand')")

    with database.snapshot(limited=False) as connection:
        (row,) = connection.execute(Base.metadata.tables["calls"].select()).mappings()
    assert row["placed_at"] == row["created_at"] == row["updated_at"]
    assert abs(row["placed_at"] - datetime.now(UTC)) < timedelta(minutes=1)
    filled = {name for name, value in row.items() if value not in {None, frozenset()}}
    assert filled - {"registered_fields"} == {
        "reference_id",
        "placed_at",
        "report_count",
        "conflict",
        "lookup_count",
        "lookup_backoff",
        "price_conflict",
        "outcome",
    } | {"created_at", "updated_at"}
    assert (row["report_count"], row["conflict"], row["lookup_count"]) == (0, False, 0)
    if database.is_sqlite:
        with database.snapshot(limited=False) as connection:
            kept = str(connection.exec_driver_sql("SELECT placed_at FROM calls").scalar())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}000Z", kept)


# As others run them


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run(
        arguments, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_alembic_itself_works_from_a_checkout(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    # An instance folder of its own, so that a checkout that is in use is left alone.
    monkeypatch.setenv("INSTANCE_DIR", str(tmp_path / "instance"))
    monkeypatch.chdir(ROOT)
    config = Config(ROOT / "alembic.ini")

    run(sys.executable, "-m", "alembic", "upgrade", "head", cwd=ROOT)
    command.check(config)
    database = Database(empty_database_url)
    database.check()
    fill(database)
    command.downgrade(config, "base")
    with database.snapshot(limited=False) as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    command.upgrade(config, "+1")
    command.upgrade(config, "head")
    database.check()
    database.close()


def install(folder: Path) -> Path:
    """The folder into which a wheel, made of the checkout, was installed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # Where hatchling is at hand, nothing is fetched from anywhere.
    how = ["--no-build-isolation"] if find_spec("hatchling") else []
    run(*pip, "wheel", str(ROOT), "--no-deps", *how, "--wheel-dir", str(folder), cwd=folder)
    (wheel,) = folder.glob("esms_calls-*.whl")
    run(
        *pip,
        "install",
        str(wheel),
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(folder / "site"),
        cwd=folder,
    )
    return folder / "site"


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_an_installed_package_has_all_migrations_and_no_tests_migrates_and_stores(
    empty_database_url: str, tmp_path: Path
) -> None:
    installed = install(tmp_path)

    here = {path.relative_to(ROOT) for path in (ROOT / "migrations").rglob("*") if path.suffix in {".py", ".mako"}}
    there = {path.relative_to(installed / "webapp") for path in (installed / "webapp/migrations").rglob("*.*")}

    assert {path for path in there if path.suffix != ".pyc"} == here
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"webapp", "bin"}

    program = """
import sys
import webapp
from webapp.storage import token_counts
from webapp.storage.database import Database
from webapp.storage.schema import newest_migration
database = Database(sys.argv[1])
print(webapp.__file__, *database.migrate(), newest_migration())
database.check()
"""
    environment = {"PYTHONPATH": str(installed), "PYTHONWARNINGS": "error"}
    printed = run(sys.executable, "-c", program, empty_database_url, cwd=tmp_path, **environment)

    assert printed.split() == [str(installed / "webapp/__init__.py"), "None", newest_migration(), newest_migration()]
    database = Database(empty_database_url)
    report = callback("a", 1, call_status="BUSY")
    Writer(database).record([report], NOW)
    assert stored_reports(database, "a") == [report]
    assert stored_call(database, "a").report_count == 1
    database.close()
