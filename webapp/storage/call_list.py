"""Reads the list of calls that people look through: a page at a time, newest placed first, by a search or by filters.

No page reads more than a bounded number of calls, however few of them are wanted: then it says where to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, union

from webapp.calls.phone import PLAIN, e164, is_hash
from webapp.storage.filters import has_phone
from webapp.storage.models import calls
from webapp.storage.reader import NEWEST_FIRST, Position, behind, place, position_of

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, CompoundSelect
    from sqlalchemy.engine import Connection

    from webapp.calls.phone import PhoneStorage
    from webapp.storage.filters import CallFilter

MOST_SCANNED = 20_000
MOST_FOUND = 1000
"""Calls that a search takes of each kind: ids, request ids, phone numbers."""
_SCANNED_FLAGS = ("recovered", "registered", "settled", "confirmed", "dismissed")
"""Those without an index of their own."""
_FEW = {"missing", "given_up"}
"""Outcomes that have an index of their own."""
_END = "\U0010ffff"
"""The last character there is: what begins with a text lies between the text and the text with it."""
_SHORTEST_PHONE = 3


@dataclass(frozen=True, slots=True)
class Found:
    """One page. ``older``: where the next one begins; None: there is none.

    ``stopped``: the page is not full, but there are calls that were not looked at; they begin at ``older``.
    """

    calls: list[dict[str, Any]]
    older: Position | None
    stopped: bool = False


def read_list(
    connection: Connection,
    wanted: CallFilter,
    after: Position | None,
    limit: int,
    search: str = "",
    phones: PhoneStorage = PLAIN,
) -> Found:
    """The page behind ``after``; None: the newest. A search also finds numbers that were hashed with ``phones``."""
    if after is not None:
        # SQLite reads all between two upper bounds: the place behind the last call is bound enough.
        wanted = replace(wanted, until=None)
    conditions = [*wanted.conditions(), *behind(after)]
    floor = None
    if search:
        conditions.append(calls.c.reference_id.in_(_searched(connection, search, phones)))
    elif not _has_index(wanted):
        floor = _floor(connection, wanted, after)
        conditions += [place() >= (floor.placed_at, floor.reference_id)] if floor else []
    query = select(calls).where(*conditions).order_by(*NEWEST_FIRST).limit(limit + 1)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    if len(rows) > limit:
        return Found(rows[:limit], position_of(rows[limit - 1]))
    return Found(rows, floor, stopped=floor is not None)


def searched_ids(connection: Connection, search: str, phones: PhoneStorage = PLAIN) -> tuple[str, ...]:
    """The ids of the calls that a search finds, whatever the filters."""
    return tuple(connection.scalars(_searched(connection, search, phones)))


def _has_index(wanted: CallFilter) -> bool:
    """Whether the calls are found without looking at others, or every call is wanted."""
    few = wanted.conflict or wanted.price_conflict or (wanted.outcomes and set(wanted.outcomes) <= _FEW)
    by_index = {"since", "until", "campaign"}
    others = [name for name in wanted.__slots__ if name not in by_index and getattr(wanted, name) is not None]
    return bool(few) or not others


def _floor(connection: Connection, wanted: CallFilter, after: Position | None) -> Position | None:
    """The last call that a page looks at; None: all older ones are fewer."""
    scanned = replace(wanted, outcomes=None, ivr=None, **dict.fromkeys(_SCANNED_FLAGS))
    conditions = [*scanned.conditions(), *behind(after)]
    query = select(calls.c.placed_at, calls.c.reference_id).where(*conditions).order_by(*NEWEST_FIRST)
    row = connection.execute(query.offset(MOST_SCANNED - 1).limit(1)).mappings().first()
    return position_of(row) if row else None


def _searched(connection: Connection, text: str, phones: PhoneStorage) -> CompoundSelect[Any]:
    """The ids of calls whose id, request id or phone number begins with the text, or whose phone is its hash."""
    is_postgresql = connection.dialect.name == "postgresql"
    found = [
        _beginning(calls.c.reference_id, text.strip().lower(), by_bytes=False),
        _beginning(calls.c.request_id, text.strip(), by_bytes=is_postgresql),
    ]
    if phone := _as_phone(text):
        found.append(_beginning(calls.c.phone_e164, phone, by_bytes=is_postgresql))
    number = text.strip()
    hashed = phones.hashed(number) if e164(number) else number if is_hash(number) else None
    if hashed:
        found.append(has_phone(hashed))
    limited = (select(calls.c.reference_id).where(one).limit(MOST_FOUND).subquery() for one in found)
    return union(*(select(one.c.reference_id) for one in limited))


def _beginning(column: Column[Any], text: str, *, by_bytes: bool) -> ColumnElement[bool]:
    """``by_bytes``: by the operators of PostgreSQL that such an index is for."""
    at_least, below = ("~>=~", "~<~") if by_bytes else (">=", "<")
    return column.op(at_least, is_comparison=True)(text) & column.op(below, is_comparison=True)(text + _END)


def _as_phone(text: str) -> str | None:
    """The beginning of a phone number, in its one form; None if it is none."""
    bare = "".join(letter for letter in text if letter not in " .-()")
    digits = bare.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) >= _SHORTEST_PHONE):
        return None
    if bare.startswith("+") or digits.startswith("84"):
        return f"+{digits}"
    return f"+84{digits.removeprefix('0')}"
