"""Counts, by the hour, the requests to the callback URL that had a wrong token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite

from webapp.storage.models import wrong_token_requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.engine import Connection

_KEPT = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class HourCount:
    """The wrong tokens of one hour. ``hour`` is its beginning, ``last_at`` when the last one came; both UTC."""

    hour: datetime
    count: int
    last_at: datetime

    @classmethod
    def of_one(cls, at: datetime) -> HourCount:
        """A single request."""
        return cls(at.astimezone(UTC).replace(minute=0, second=0, microsecond=0), 1, at)

    def plus(self, other: HourCount) -> HourCount:
        """Both together, of the same hour."""
        return HourCount(self.hour, self.count + other.count, max(self.last_at, other.last_at))


def add(connection: Connection, counts: Collection[HourCount], now: datetime) -> None:
    """Add to the hours; those older than 90 days are deleted."""
    table = wrong_token_requests
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    more = {"count": table.c.count + insert.excluded.count, "last_at": insert.excluded.last_at}
    statement = insert.on_conflict_do_update(index_elements=[table.c.hour], set_=more)
    # In one order for all processes, so that their transactions do not lock each other out.
    connection.execute(statement, [asdict(one) for one in sorted(counts, key=lambda one: one.hour)])
    connection.execute(table.delete().where(table.c.hour < now - _KEPT))


def since(connection: Connection, at: datetime) -> tuple[int, datetime | None]:
    """How many came in the hours whose last one came after ``at``, and when the last of all came."""
    table = wrong_token_requests
    query = select(func.coalesce(func.sum(table.c.count), 0), func.max(table.c.last_at)).where(table.c.last_at > at)
    number, last_at = connection.execute(query).one()
    return int(number), last_at
