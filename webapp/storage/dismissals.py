"""Notes that a person has seen to calls and rejected callbacks, so that ``status`` does not name them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from webapp.storage import bulk
from webapp.storage.models import calls, rejected_callbacks
from webapp.storage.rejected import is_other_channel

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Connection

_CALLS_AT_ONCE = 1000


def dismiss_calls(connection: Connection, reference_ids: Collection[str], now: datetime, *, undo: bool) -> set[str]:
    """Note that a person has seen to these calls now, or take it back; the ids of those that are stored."""
    return set(_note(connection, bulk.is_one_of(connection, calls.c.reference_id, reference_ids), now, undo=undo))


def dismiss_given_up(connection: Connection, now: datetime, *, undo: bool) -> int:
    """The same for all calls that were given up; the number of those that this changed."""
    noted = calls.c.dismissed_at.is_not(None)
    wanted = calls.c.gave_up_at.is_not(None) & (noted if undo else ~noted)
    return len(_note(connection, wanted, now, undo=undo))


def dismiss_rejected(connection: Connection, now: datetime, *, undo: bool) -> int:
    """The same for all rejected callbacks that need a person: not replayed, and of no other channel."""
    noted = rejected_callbacks.c.dismissed_at.is_not(None)
    wanted = rejected_callbacks.c.replayed_at.is_(None) & ~is_other_channel() & (noted if undo else ~noted)
    note = update(rejected_callbacks).where(wanted).values(dismissed_at=None if undo else now)
    return connection.execute(note).rowcount


def _note(connection: Connection, wanted: ColumnElement[bool], now: datetime, *, undo: bool) -> list[str]:
    """The ids of the wanted calls. They are locked in their order, as every writer does."""
    key = calls.c.reference_id
    found = list(connection.scalars(select(key).where(wanted).order_by(key).with_for_update()))
    for place in range(0, len(found), _CALLS_AT_ONCE):
        some = bulk.is_one_of(connection, key, found[place : place + _CALLS_AT_ONCE])
        connection.execute(update(calls).where(some).values(dismissed_at=None if undo else now, updated_at=now))
    return found
