"""Which calls eSMS is to be asked about, in which order, and how a run takes some of them for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, func, literal_column, or_, select, true, union_all, update

from webapp.storage import bulk
from webapp.storage.filters import EVERY_CALL, CallFilter, is_missing
from webapp.storage.models import calls
from webapp.support.settings import Verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection


LONGEST_DUE = func.coalesce(calls.c.next_lookup_at, calls.c.placed_at)
"""The order in which calls are asked about, once those that were never asked about had their turn."""

_CONTENDERS = 4
"""So many runs may look at the same calls at the same moment, and still each finds some for itself."""
_ATTEMPTS = 10
_UNCONFIRMED: dict[str, list[ColumnElement[bool]]] = {"unregistered": [calls.c.registered_at.is_(None)], "all": []}
"""Which settled calls are to be confirmed, by what VERIFY says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Which calls eSMS is to be asked about: open ones placed and next due no later than these times.

    With ``verify`` also settled ones that no lookup confirmed, and that were placed at ``verify_since`` or later.
    """

    placed_by: datetime
    due_by: datetime
    verify: Verify = "conflicts"
    verify_since: datetime | None = None
    within: CallFilter = EVERY_CALL


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that this run may ask about; ``verifying``: it is settled, and to be confirmed."""

    reference_id: str
    placed_at: datetime
    verifying: bool


def is_due(due: Due) -> ColumnElement[bool]:
    """The condition that eSMS is to be asked about a call."""
    return or_(*due_parts(due))


def due_parts(due: Due) -> list[ColumnElement[bool]]:
    """The same in parts that have no call in common: counted one by one, they need no memory for each call."""
    parts = _open_parts(due)
    if due.verify_since is not None and due.verify in _UNCONFIRMED:
        parts.append(_to_confirm(due))
    return [and_(part, *due.within.conditions()) for part in parts]


def _open_parts(due: Due) -> list[ColumnElement[bool]]:
    """Open calls in three parts, each of which an index holds with the longest due first."""
    missing = and_(is_missing(), calls.c.placed_at <= due.placed_by)
    time_has_come = calls.c.next_lookup_at <= due.due_by
    parts = [and_(missing, calls.c.next_lookup_at.is_(None)), and_(missing, time_has_come)]
    return parts if due.verify == "off" else [*parts, and_(calls.c.conflict, time_has_come)]


def _to_confirm(due: Due) -> ColumnElement[bool]:
    """Settled calls that no lookup confirmed; each is asked about until eSMS decides, or is too old."""
    may_be_asked = or_(
        and_(calls.c.next_lookup_at.is_(None), calls.c.lookup_backoff == 0), calls.c.next_lookup_at <= due.due_by
    )
    return and_(
        calls.c.settled_at.is_not(None),
        calls.c.confirmed_at.is_(None),
        ~calls.c.conflict,
        calls.c.placed_at >= due.verify_since,
        may_be_asked,
        *_UNCONFIRMED[due.verify],
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """Some of the due calls, in parts; each part can be read in its order from an index."""

    parts: list[ColumnElement[bool]]
    order: tuple[ColumnElement[Any], ...]
    turn: ColumnElement[Any] = LONGEST_DUE
    """What puts calls of all the parts in that order."""
    verifying: bool = False
    backwards: bool = False
    """Whether the last has its turn first."""

    def directed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The column, to sort by."""
        return column.desc() if self.backwards else column


def _steps(due: Due) -> list[_Step]:
    """The due calls, in the order in which they have their turn."""
    longest_due = (calls.c.next_lookup_at, calls.c.placed_at)
    never = calls.c.lookup_count == literal_column("0")  # as the index says it, or SQLite would not take it
    within = and_(true(), *due.within.conditions())
    steps = [_Step([and_(part, asked, within) for part in _open_parts(due)], longest_due) for asked in (never, ~never)]
    if due.verify_since is not None and due.verify in _UNCONFIRMED:
        confirming = and_(_to_confirm(due), within)
        by_age = (calls.c.placed_at, calls.c.reference_id)
        steps.append(_Step([confirming], by_age, turn=calls.c.placed_at, verifying=True))
    return steps


def claim(
    connection: Connection, due: Due, limit: int, *, now: datetime, until: datetime, elsewhere: bool = False
) -> list[Claimed]:
    """Claim up to ``limit`` due calls until then, in the order in which they have their turn.

    With ``elsewhere`` the last of each step instead.
    """
    steps = _steps(due)
    at_once = limit
    if elsewhere:
        steps, at_once = [replace(step, backwards=True) for step in steps], -(-limit // len(steps))
    claimed: list[Claimed] = []
    for step in steps:
        if wanted := min(limit - len(claimed), at_once):
            claimed += _claim(connection, step, wanted, now, until)
    return claimed


def _claim(connection: Connection, step: _Step, limit: int, now: datetime, until: datetime) -> list[Claimed]:
    """Claim the first of these calls; those that another run is claiming at this moment are passed over."""
    key, free = calls.c.reference_id, or_(calls.c.claimed_until.is_(None), calls.c.claimed_until <= now)
    first = [
        select(key, step.turn.label("turn"))
        .where(part, free)
        .order_by(*map(step.directed, step.order))
        .limit(limit * _CONTENDERS)
        for part in step.parts
    ]
    candidates = union_all(*(select(part.subquery()) for part in first)).subquery()
    in_order = select(candidates.c.reference_id).order_by(step.directed(candidates.c.turn)).limit(limit * _CONTENDERS)
    for _ in range(_ATTEMPTS):
        if not (names := list(connection.scalars(in_order))):
            break
        # Another run may have had its turn since: what is locked is looked at once more. "IS TRUE", or PostgreSQL may
        # also read the index of all that is missing, when it does not know yet how many these are.
        still = (bulk.is_one_of(connection, key, names), free, or_(*step.parts).is_(true()))
        locked = (
            select(key).where(*still).order_by(step.directed(step.turn)).limit(limit).with_for_update(skip_locked=True)
        )
        mine = locked.cte("mine")
        claim = update(calls).where(key.in_(select(mine.c.reference_id))).values(claimed_until=until)
        claimed = connection.execute(claim.returning(key, calls.c.placed_at, step.turn.label("turn"))).all()
        if claimed or len(names) < limit * _CONTENDERS:
            rows = sorted(claimed, key=lambda row: (row.turn, row.reference_id), reverse=step.backwards)
            return [Claimed(row.reference_id, row.placed_at, step.verifying) for row in rows]
    return []


def renew(connection: Connection, held: Mapping[str, datetime], until: datetime) -> set[str]:
    """Claim calls for longer that are claimed until when ``held`` says; the ids of those.

    The lease of the others has ended, and another run has claimed them since.
    """
    return _set_claims(connection, held, until)


def release(connection: Connection, held: Mapping[str, datetime]) -> None:
    """Release calls that were claimed until then; they stay due as they were."""
    _set_claims(connection, held, None)


def _set_claims(connection: Connection, held: Mapping[str, datetime], until: datetime | None) -> set[str]:
    key = calls.c.reference_id
    mine = and_(key.in_(held), calls.c.claimed_until.in_(set(held.values())))
    in_order = select(key).where(mine).order_by(key).with_for_update()
    statement = update(calls).where(key.in_(in_order)).values(claimed_until=until).returning(key)
    return set(connection.scalars(statement))
