"""Notes that a person has seen to calls and rejected callbacks, so that ``status`` does not name them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from webapp.storage import bulk
from webapp.storage.models import calls, rejected_callbacks

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy.engine import Connection


def dismiss_calls(connection: Connection, reference_ids: Collection[str], at: datetime | None) -> set[str]:
    """Dismiss these calls at that time, None takes it back; the ids of those that are stored."""
    return _set(connection, reference_ids, at)


def dismiss_given_up(connection: Connection, at: datetime | None) -> int:
    """Dismiss all calls that were given up; the number of those that this changed."""
    given_up = calls.c.gave_up_at.is_not(None)
    other = calls.c.dismissed_at.is_(None) if at else calls.c.dismissed_at.is_not(None)
    return connection.execute(update(calls).where(given_up, other).values(dismissed_at=at)).rowcount


def dismiss_rejected(connection: Connection, at: datetime | None) -> int:
    """Dismiss all rejected callbacks; the number of those that this changed."""
    table = rejected_callbacks
    other = table.c.dismissed_at.is_(None) if at else table.c.dismissed_at.is_not(None)
    return connection.execute(update(table).where(other).values(dismissed_at=at)).rowcount


def _set(connection: Connection, reference_ids: Collection[str], at: datetime | None) -> set[str]:
    key = calls.c.reference_id
    in_order = select(key).where(bulk.is_one_of(connection, key, reference_ids)).order_by(key).with_for_update()
    found = list(connection.scalars(in_order))
    connection.execute(update(calls).where(bulk.is_one_of(connection, key, found)).values(dismissed_at=at))
    return set(found)
