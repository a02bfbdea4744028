"""Fills the program's tables by SQL with copies of one stored call and its history, each with another identity.

It uses the names of the tables, of a call's identity and of times; it copies all other columns as they are.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, inspect, make_url, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

TABLES = ("calls", "status_reports")
_AT_ONCE = 500_000

# A year of calls, evenly spaced, in the order of time; their ids are random, as eSMS's are.
_POSTGRESQL_SEED = """
CREATE UNLOGGED TABLE bench_seed AS
SELECT n, gen_random_uuid()::text AS reference_id, now() - (:rows - n) * (interval '1 year' / :rows) AS at
FROM generate_series(1, :rows) AS n
"""
_SQLITE_SEED = """
CREATE TABLE seeds.bench_seed AS
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT :rows)
SELECT n,
       substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-4' || substr(h, 14, 3) || '-a' || substr(h, 18, 3) || '-'
         || substr(h, 21) AS reference_id,
       strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-' || ((:rows - n) * 31536000.0 / :rows) || ' seconds') AS at
FROM (SELECT n, lower(hex(randomblob(16))) AS h FROM numbers LIMIT :rows)
"""
# A UUIDv7 of the report's time.
POSTGRESQL_ID = (
    "(lpad(to_hex((extract(epoch FROM s.at) * 1000)::bigint), 12, '0') || '7' || substr(md5(s.reference_id), 1, 3)"
    " || 'a' || substr(md5(s.reference_id), 4, 15))::uuid"
)
_SQLITE_MILLISECONDS = "cast((julianday(s.at) - 2440587.5) * 86400000 AS integer)"
SQLITE_ID = (
    f"printf('%08x-%04x-7', {_SQLITE_MILLISECONDS} >> 16, {_SQLITE_MILLISECONDS} & 65535)"
    " || substr(s.reference_id, 1, 3) || '-a' || substr(s.reference_id, 4, 3) || '-' || substr(s.reference_id, 25)"
)


def fill(database: str, rows: int, show: Callable[[str], None]) -> None:
    """Copy the one stored call, with its report if it has one, until there are ``rows`` calls; gather statistics.

    Indexes are dropped first and created again afterwards: the result is the same, in a tenth of the time.
    """
    if make_url(database).get_backend_name() == "sqlite":
        _fill_sqlite(database, rows, show)
    else:
        _fill_postgresql(database, rows, show)


def _fill_postgresql(database: str, rows: int, show: Callable[[str], None]) -> None:
    engine = create_engine(database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(_POSTGRESQL_SEED), {"rows": rows})
        copies = {table: _copy(connection, table, POSTGRESQL_ID) for table in TABLES}
        for table in TABLES:
            connection.execute(text(f"CREATE UNLOGGED TABLE bench_{table} AS SELECT * FROM {table}"))  # noqa: S608
        with without_indexes_on_postgresql(connection, show):
            for first in range(1, rows + 1, _AT_ONCE):
                show(f"{first - 1:,} of {rows:,} rows")
                for copy in copies.values():
                    connection.execute(text(f"{copy} ORDER BY n"), {"first": first, "last": first + _AT_ONCE - 1})
        connection.execute(text(f"DROP TABLE bench_seed, {', '.join(f'bench_{table}' for table in TABLES)}"))
    engine.dispose()


@contextmanager
def without_indexes_on_postgresql(connection: Connection, show: Callable[[str], None]) -> Iterator[None]:
    """Have the block fill the tables; make their indexes after it, and gather statistics."""
    indexes = connection.execute(
        text(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), conname,"
            " pg_get_constraintdef(c.oid), indrelid::regclass::text"
            " FROM pg_index LEFT JOIN pg_constraint c ON conindid = indexrelid"
            " WHERE indrelid::regclass::text = ANY(:tables)"
        ),
        {"tables": list(TABLES)},
    ).all()
    for name, _, constraint, _, table in indexes:
        drop = f"ALTER TABLE {table} DROP CONSTRAINT {constraint}" if constraint else f"DROP INDEX {name}"
        connection.execute(text(drop))
    yield
    for name, definition, constraint, constraint_definition, table in indexes:
        show(f"making {name}")
        add = f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {constraint_definition}"
        connection.execute(text((add if constraint else definition).replace(":", r"\:")))
    show("gathering statistics")
    for table in TABLES:
        connection.execute(text(f"VACUUM (ANALYZE) {table}"))
    connection.execute(text("CHECKPOINT"))


def _fill_sqlite(database: str, rows: int, show: Callable[[str], None]) -> None:
    path = Path(make_url(database).database or "")
    seeds = path.with_name("seeds.db")
    engine = create_engine(database)
    with engine.connect() as connection:
        copies = {table: _copy(connection, table, SQLITE_ID) for table in TABLES}
    engine.dispose()
    with without_indexes_on_sqlite(path, show) as file:
        file.execute("ATTACH ? AS seeds", [str(seeds)])
        file.execute(_SQLITE_SEED, {"rows": rows})
        for table in TABLES:
            file.execute(f"CREATE TABLE seeds.bench_{table} AS SELECT * FROM {table}")  # noqa: S608 - a name of ours
        for table, copy in copies.items():
            show(f"{rows:,} rows of {table}")
            # The index of the primary key cannot be dropped; rows in its order write each of its pages once.
            order = "reference_id" if table == "calls" else "n"
            file.execute("BEGIN")
            file.execute(f"{copy} ORDER BY s.{order}", {"first": 1, "last": rows})
            file.execute("COMMIT")
        file.execute("DETACH seeds")
    seeds.unlink()


@contextmanager
def without_indexes_on_sqlite(path: Path, show: Callable[[str], None]) -> Iterator[sqlite3.Connection]:
    """Have the block fill the tables, outside of transactions; make their indexes after it, and gather statistics."""
    file = sqlite3.connect(path, isolation_level=None)
    # No crash safety while the file is filled; the journal is switched on again at the end.
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-1048576", "temp_store=FILE"):
        file.execute(f"PRAGMA {pragma}").fetchall()
    indexes = file.execute(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN (?, ?)",
        TABLES,
    ).fetchall()
    for name, _ in indexes:
        file.execute(f"DROP INDEX {name}")
    yield file
    for name, definition in indexes:
        show(f"making {name}")
        file.execute(definition)
    show("gathering statistics")
    file.execute("PRAGMA analysis_limit=10000")
    file.execute("ANALYZE")
    file.execute("PRAGMA journal_mode=WAL").fetchall()
    file.close()


def _copy(connection: Connection, table: str, identifier: str) -> str:
    """The statement that copies the table's one row, if any, for each seed from :first to :last."""
    rows = connection.execute(text(f"SELECT * FROM {table}")).mappings().all()  # noqa: S608 - a name of ours
    template = dict(rows[0]) if rows else {}
    columns = [one["name"] for one in inspect(connection).get_columns(table) if "computed" not in one]
    values = [_value(name, template.get(name), identifier) for name in columns]
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608 - names of ours
        f" FROM bench_seed AS s CROSS JOIN bench_{table} AS t WHERE n BETWEEN :first AND :last"
    )


def _value(column: str, of_template: Any, identifier: str) -> str:
    if column == "id":
        return identifier
    if column == "reference_id":
        return "s.reference_id"
    if column == "payload":
        return "replace(t.payload, t.reference_id, s.reference_id)"
    if column.endswith("_at") and of_template is not None:
        return "s.at"
    return f"t.{column}"
