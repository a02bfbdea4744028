"""The time zone of the views and figures: the database's own, which one command changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, text

from webapp.storage import rollups, schema
from webapp.storage.errors import NotMigrated
from webapp.storage.models import call_rollups, calls, rollup_marks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from sqlalchemy.engine import Connection

_FIRST, _LAST, _STEP = datetime(2000, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC), timedelta(days=7)


class UnfitZone(Exception):
    """The database cannot count days in that zone; the words say why, and what to do."""


def zone_of(connection: Connection) -> str:
    """The name of the zone that views and figures have."""
    return connection.scalar(select(rollups.figures_as_of.c.time_zone)) or ""


def has_calls(connection: Connection) -> bool:
    """Whether there are calls, of whose figures a change of the zone makes new ones."""
    return connection.scalar(select(calls.c.reference_id).limit(1)) is not None


def set_zone(connection: Connection, zone: ZoneInfo, now: datetime) -> None:
    """Make the views anew for the zone, drop all figures, and mark them to be made anew. Raises UnfitZone.

    Raises NotMigrated where a newer program made the views.
    While the index of local days is built, 15 seconds for 10 million calls, none is written (on PostgreSQL: nor read).
    """
    dialect = connection.dialect.name
    offset = _offset(zone, now) if dialect == "sqlite" else timedelta(0)
    if dialect == "postgresql":
        _require_known(connection, zone)
    _require_own_views(connection)
    module = schema.views_module()
    words = module.words_of(dialect, zone.key, round(offset.total_seconds()))
    _execute_texts(connection, module.drop_views(words))
    _execute_texts(connection, module.create_views(words))
    rollups.count_replacement(connection)
    connection.execute(delete(call_rollups))
    connection.execute(delete(rollup_marks))
    rollups.mark_everything(connection, now)


def _require_own_views(connection: Connection) -> None:
    if schema.is_newer(found := schema.current_migration(connection)):
        raise NotMigrated(
            f"The views were made by a newer version of esms-calls (the database is at migration {found}, this program "
            f"needs {schema.newest_migration()}): use that version for this."
        )


def drop_views(connection: Connection) -> str:
    """Drop all views, so that a table that they read can be replaced; the zone to make them anew with.

    Only on PostgreSQL; the index of local days stays. Raises NotMigrated where a newer program made them.
    """
    _require_own_views(connection)
    zone = zone_of(connection)
    _execute_texts(connection, _of_views("drop_views", zone))
    return zone


def make_views(connection: Connection, zone: str) -> None:
    """Make them again."""
    _execute_texts(connection, _of_views("create_views", zone))


def _of_views(function: str, zone: str) -> list[str]:
    module = schema.views_module()
    statements = getattr(module, function)(module.words_of("postgresql", zone, 0))
    return [statement for statement in statements if f"INDEX {module.INDEX}" not in statement]


def _execute_texts(connection: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(text(statement.replace(":", r"\:")))


def _offset(zone: ZoneInfo, now: datetime) -> timedelta:
    """The zone's offset from UTC, which must have been the same since 2000. Raises UnfitZone."""
    offsets = {
        (_FIRST + number * _STEP).astimezone(zone).utcoffset() for number in range((_LAST - _FIRST) // _STEP)
    } | {now.astimezone(zone).utcoffset()}
    if len(offsets) > 1:
        raise UnfitZone(
            f"SQLite knows no time zones, and {zone.key} does not have the same time all year: its days cannot be "
            "counted there. Use a zone without summer time (Asia/Ho_Chi_Minh, UTC, Etc/GMT-7), or PostgreSQL."
        )
    return next(iter(offsets)) or timedelta(0)


def _require_known(connection: Connection, zone: ZoneInfo) -> None:
    known = "SELECT 1 FROM pg_timezone_names WHERE name = :name"
    if connection.scalar(text(known), {"name": zone.key}) is None:
        raise UnfitZone(f"PostgreSQL does not know the time zone {zone.key}: use another name of it.")
