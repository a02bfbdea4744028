"""Splits the reports by month on PostgreSQL, so that a month's space is freed at once; see docs/scale.md."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text
from sqlalchemy.schema import CreateIndex

from webapp.storage.models import status_reports
from webapp.storage.retry import lock_retrying, retrying
from webapp.storage.time_zone import drop_views, make_views

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

MONTHS_AHEAD = 24
_TABLE = status_reports.name
_BEFORE, _LATER = f"{_TABLE}_before", f"{_TABLE}_later"


def are_partitioned(connection: Connection) -> bool:
    """Whether the reports are split by month already; never on SQLite."""
    if connection.dialect.name != "postgresql":
        return False
    kind = text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:table)")
    return bool(connection.scalar(kind, {"table": _TABLE}))


@lock_retrying
@retrying
def split_reports(database: Database, now: datetime) -> list[str]:
    """Split the reports by month; see ``partition_reports``. Raises Unavailable, with nothing changed."""
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '1s'"))
        return partition_reports(connection, now)


def partition_reports(connection: Connection, now: datetime) -> list[str]:
    """Split the reports by the month in which they were received, UTC; the partitions that were made.

    What is stored stays in one partition, with this and the next month. Then follow two years of months, and one
    partition for all that comes later. Reports that are split already get the months that are missing.
    """
    split = are_partitioned(connection)
    # A report of a clock that was wrong may come from later; it stays where it is.
    newest = None if split else connection.scalar(select(func.max(status_reports.c.received_at)))
    months = _months_from(max(now, newest or now))
    made = []
    if not split:
        _split_at(connection, months[0])
        made.append(_BEFORE)
    existing = _partitions(connection)
    end = _end_of(connection)
    for start, until in pairwise(months):
        name = f"{_TABLE}_{start:%Y_%m}"
        if name not in existing and start >= end:
            _execute_all(
                connection, f"CREATE TABLE {name} PARTITION OF {_TABLE} FOR VALUES FROM ('{start}') TO ('{until}')"
            )
            made.append(name)
    return made


def _months_from(now: datetime) -> list[datetime]:
    """The beginnings of the month after the next one, and of those behind it."""
    return list(islice(_month_starts(now.astimezone(UTC)), 2, MONTHS_AHEAD + 3))


def _month_starts(now: datetime) -> Iterator[datetime]:
    month = now.year * 12 + now.month - 1
    while True:
        yield datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        month += 1


def _partitions(connection: Connection) -> set[str]:
    query = text("SELECT relid::regclass::text FROM pg_partition_tree(to_regclass(:table)) WHERE isleaf")
    return set(connection.scalars(query, {"table": _TABLE}))


def _end_of(connection: Connection) -> datetime:
    """Where the partition of what was stored before ends; long ago, if it was removed."""
    bound = "substring(pg_get_expr(relpartbound, oid) FROM $$TO \\('(.*)'\\)$$)"
    query = text(f"SELECT {bound} FROM pg_class WHERE oid = to_regclass(:table)")  # noqa: S608
    end = connection.scalar(query, {"table": _BEFORE})
    return datetime.fromisoformat(end).astimezone(UTC) if end else datetime.min.replace(tzinfo=UTC)


def _split_at(connection: Connection, boundary: datetime) -> None:
    """Make the table the first partition of a new one. It is locked for writers while it is read and indexed once."""
    zone = drop_views(connection)
    _execute_all(
        connection,
        f"ALTER TABLE {_TABLE} RENAME TO {_BEFORE}",
        f"ALTER TABLE {_BEFORE} DROP CONSTRAINT pk_{_TABLE}",
        *(f"ALTER INDEX {index.name} RENAME TO {_of_before(str(index.name))}" for index in status_reports.indexes),
        f"CREATE TABLE {_TABLE} (LIKE {_BEFORE} INCLUDING DEFAULTS INCLUDING COMMENTS)"
        " PARTITION BY RANGE (received_at)",
        f"COMMENT ON TABLE {_TABLE} IS '{status_reports.comment}'",
        f"ALTER TABLE {_TABLE} ADD CONSTRAINT pk_{_TABLE} PRIMARY KEY (reference_id, id, received_at)",
    )
    for index in status_reports.indexes:
        connection.execute(CreateIndex(index))
    _execute_all(
        connection,
        f"ALTER TABLE {_TABLE} ATTACH PARTITION {_BEFORE} FOR VALUES FROM (MINVALUE) TO ('{boundary}')",
        f"CREATE TABLE {_LATER} PARTITION OF {_TABLE} DEFAULT",
    )
    make_views(connection, zone)


def _of_before(index: str) -> str:
    return index.replace(_TABLE, _BEFORE, 1)


def _execute_all(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)
