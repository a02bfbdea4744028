"""Reads the list of calls that people look through: a page at a time, newest placed first, by a search or by filters.

No page reads more than a bounded number of calls, however few of them are wanted: then it says where to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from webapp.storage.models import calls
from webapp.storage.reader import NEWEST_FIRST, Position, behind, place, position_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from webapp.storage.filters import CallFilter
    from webapp.storage.search import Search

MOST_SCANNED = 20_000
_SCANNED_FLAGS = ("recovered", "registered", "settled", "confirmed", "dismissed", "has_campaign")
"""Those without an index of their own."""
_FEW = {"missing", "given_up"}
"""Outcomes that have an index of their own."""


@dataclass(frozen=True, slots=True)
class Found:
    """One page. ``older``: where the next one begins; None: there is none.

    ``stopped``: the page is not full, but there are calls that were not looked at; they begin at ``older``.
    """

    calls: list[dict[str, Any]]
    older: Position | None
    stopped: bool = False


def read_list(
    connection: Connection, wanted: CallFilter, after: Position | None, limit: int, search: Search | None = None
) -> Found:
    """The page behind ``after``; None: the newest."""
    if after is not None:
        # SQLite reads all between two upper bounds: the place behind the last call is bound enough.
        wanted = replace(wanted, until=None)
    found = search.ids(connection) if search else None
    if found is None:
        wanted = replace(wanted, search=search)
    conditions = [*wanted.conditions(), *behind(after)]
    floor = None
    if found is not None:
        conditions.append(calls.c.reference_id.in_(found))
    elif not _has_index(wanted):
        floor = _floor(connection, wanted, after)
        conditions += [place() >= (floor.placed_at, floor.reference_id)] if floor else []
    query = select(calls).where(*conditions).order_by(*NEWEST_FIRST).limit(limit + 1)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    if len(rows) > limit:
        return Found(rows[:limit], position_of(rows[limit - 1]))
    return Found(rows, floor, stopped=floor is not None)


def _has_index(wanted: CallFilter) -> bool:
    """Whether the calls are found without looking at others, or every call is wanted."""
    few = wanted.conflict or wanted.price_conflict or (wanted.outcomes and set(wanted.outcomes) <= _FEW)
    by_index = {"since", "until", "campaign"}
    others = [name for name in wanted.__slots__ if name not in by_index and getattr(wanted, name) is not None]
    return bool(few) or not others


def _floor(connection: Connection, wanted: CallFilter, after: Position | None) -> Position | None:
    """The last call that a page looks at; None: all older ones are fewer."""
    scanned = replace(wanted, outcomes=None, ivr=None, search=None, **dict.fromkeys(_SCANNED_FLAGS))
    conditions = [*scanned.conditions(), *behind(after)]
    query = select(calls.c.placed_at, calls.c.reference_id).where(*conditions).order_by(*NEWEST_FIRST)
    row = connection.execute(query.offset(MOST_SCANNED - 1).limit(1)).mappings().first()
    return position_of(row) if row else None
