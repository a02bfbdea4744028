"""The rate of look-ups that all runs share: one row with the next free slot, and the share of RECONCILE_RATE allowed.

Slots are times of the database's clock, which all machines share.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, literal, select, update

from webapp.storage import bulk
from webapp.storage.database import clock
from webapp.storage.models import lookup_rate
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

SLACK = 1.03
"""Slots are this many times further apart than the rate says: a look-up that leaves a little late keeps it, too."""
SMALLEST_SHARE = 1 / 32
RECOVERY = timedelta(minutes=2)
"""From a share of 0 to the full rate."""
LONGEST_RETRY_AFTER = timedelta(hours=1)
"""A longer ``Retry-After`` counts as this; a next slot further ahead was written by a clock that was wrong."""
_SLOW_SHARE = 1 / 4
"""Below it slots are reserved one by one: they are far apart, and those that become void are lost to all runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupRate:
    """The next free slot, and the share of the rate to which eSMS slowed the look-ups; since then it recovers."""

    next_slot_at: datetime
    share: float = 1.0
    slowed_at: datetime | None = None

    def share_at(self, now: datetime) -> float:
        """The share of the rate that may be used now: above 0, at most 1. A clock that was set back recovers, too."""
        if self.slowed_at is None:
            return self.share
        return min(1.0, self.share + abs(now - self.slowed_at) / RECOVERY)

    def reserve(self, now: datetime, count: int, rate: int) -> tuple[LookupRate, list[datetime]]:
        """Take the next ``count`` slots, in each of which one look-up may leave; ``rate`` is look-ups a second."""
        distance = timedelta(seconds=SLACK / (rate * self.share_at(now)))
        first = min(max(self.next_slot_at, now), now + LONGEST_RETRY_AFTER)
        after = replace(self, next_slot_at=first + count * distance)
        return after, [first + place * distance for place in range(count)]

    def halved(self, now: datetime) -> LookupRate:
        """Half the rate of now: eSMS wants to be asked more slowly."""
        return replace(self, share=max(self.share_at(now) / 2, SMALLEST_SHARE), slowed_at=now)

    def paused(self, until: datetime) -> LookupRate:
        """No slot before ``until``: eSMS said when to ask again."""
        return replace(self, next_slot_at=max(self.next_slot_at, until))


_COLUMNS = [lookup_rate.c[field.name] for field in fields(LookupRate)]


@retrying
def reserve_slots(database: Database, count: int, *, rate: int, lead: timedelta = timedelta(0)) -> list[float]:
    """Reserve up to ``count`` slots, at least one, none before ``lead`` from now; in seconds of ``time.monotonic``.

    Raises ``Unavailable``.
    """
    with database.transaction() as connection:
        current, now = _lock(connection)
        monotonic_now = time.monotonic()
        if current.share_at(now) <= _SLOW_SHARE:
            count = 1
        after, slots = current.reserve(now + lead, count, rate)
        connection.execute(update(lookup_rate).values(asdict(after)))
    return [monotonic_now + (slot - now).total_seconds() for slot in slots]


@retrying
def slow_down(database: Database, pause_seconds: float | None, *, halve: bool) -> None:
    """Halve the rate of all runs, or let no look-up leave for ``pause_seconds`` (an hour at most), or both.

    Raises ``Unavailable``.
    """
    with database.transaction() as connection:
        current, now = _lock(connection)
        if halve:
            current = current.halved(now)
        if pause_seconds is not None:
            seconds = min(pause_seconds, LONGEST_RETRY_AFTER.total_seconds())
            current = current.paused(now + timedelta(seconds=seconds))
        connection.execute(update(lookup_rate).values(asdict(current)))


def _lock(connection: Connection) -> tuple[LookupRate, datetime]:
    """The row, locked until the transaction ends, and the database's time once it is; makes the row if it is absent."""
    while (found := _locked_row(connection)) is None:
        first = asdict(LookupRate(next_slot_at=clock(connection)))
        insert = bulk.insert_of(lookup_rate, connection.dialect.name).values(one=1, **first)
        connection.execute(insert.on_conflict_do_nothing())
    return found


def _locked_row(connection: Connection) -> tuple[LookupRate, datetime] | None:
    query: Select[Any] = select(*_COLUMNS)
    if connection.dialect.name == "postgresql":
        # Outside of the subquery, the clock is read after the lock was waited for. All runs wait for it: it is not held
        # until the disk has the commit. A server that crashes forgets the last ones, and ends the runs that made them.
        locked = query.with_for_update().subquery()
        not_synced = func.set_config("synchronous_commit", "off", literal(value=True))
        query = select(*locked.c, func.clock_timestamp().label("now"), not_synced)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    return LookupRate(**{column.name: row[column.name] for column in _COLUMNS}), row.get("now") or clock(connection)
