"""Reserves slots for look-ups in the database, so that all runs together keep RECONCILE_RATE."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from webapp.calls.pace import LONGEST_PAUSE, Pace
from webapp.storage.database import clock
from webapp.storage.models import lookup_rate

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.engine import Connection

_COLUMNS = select(*(lookup_rate.c[field.name] for field in fields(Pace)))
_SLOWED = 1 / 4
"""Below this share of the rate slots are reserved one by one."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Reserved slots by the database's clock; ``now`` is what it said when ``time.monotonic()`` was ``read_at``."""

    slots: list[datetime]
    now: datetime
    read_at: float


def reserve(connection: Connection, wanted: int, rate: int, *, lead: timedelta, after_slowdown: int = 1) -> Slots:
    """Reserve the next ``wanted`` slots of ``rate`` a second, none earlier than ``lead`` from now.

    Only ``after_slowdown`` of them while eSMS wants it slow: those are far apart, and one that is not used is lost.
    """
    pace, now = _locked(connection)
    read_at = time.monotonic()
    number = wanted if pace.share_at(now) > _SLOWED else after_slowdown
    after, slots = pace.reserve(now + lead, number, rate)
    connection.execute(update(lookup_rate).values(asdict(after)))
    return Slots(slots, now, read_at)


def slow_down(connection: Connection, pause_seconds: float | None, *, halve: bool) -> None:
    """Halve the rate, or pause, for all runs."""
    pace, now = _locked(connection)
    if halve:
        pace = pace.slowed(now)
    if pause_seconds is not None:
        pace = pace.paused(now + timedelta(seconds=min(pause_seconds, LONGEST_PAUSE.total_seconds())))
    connection.execute(update(lookup_rate).values(asdict(pace)))


def _locked(connection: Connection) -> tuple[Pace, datetime]:
    """The rate's row, locked, and what the database's clock says once it is."""
    while (found := _read(connection)) is None:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        first = dialect.insert(lookup_rate).values(one=1, **asdict(Pace(next_slot_at=clock(connection))))
        connection.execute(first.on_conflict_do_nothing())
    return found


def _read(connection: Connection) -> tuple[Pace, datetime] | None:
    query: Select[Any] = _COLUMNS
    if connection.dialect.name == "postgresql":
        # Outside of the subquery, the clock is read after the lock was waited for. All runs wait for it: it is not held
        # until the disk has the commit. A server that crashes loses the last ones, and ends the runs that made them.
        locked = _COLUMNS.with_for_update().subquery()
        not_synced = func.set_config("synchronous_commit", "off", literal(value=True))
        query = select(*locked.c, func.clock_timestamp().label("now"), not_synced)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    pace = Pace(**{field.name: row[field.name] for field in fields(Pace)})
    return pace, row.get("now") or clock(connection)
