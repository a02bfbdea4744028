"""Claims calls for one run, with a lease: which calls are due, and in which order they are claimed.

Each claim, renewal and release is a transaction of its own, and raises ``Unavailable``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, func, literal_column, or_, select, true, union_all, update

from webapp.esms.lookup import LookupRequest
from webapp.storage import bulk
from webapp.storage.filters import EVERY_CALL, IS_MISSING, CallFilter
from webapp.storage.models import calls
from webapp.storage.retry import retrying
from webapp.support.settings import Verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database
    from webapp.support.settings import Settings


DUE_SINCE = func.coalesce(calls.c.next_lookup_at, calls.c.placed_at)
"""The order in which calls are asked about that were asked about before."""

_RUNS_AT_ONCE = 4
"""This many runs may claim at the same moment, and each still finds calls that the others do not lock."""
_ATTEMPTS = 10
_LEASE_TIMEOUTS = 3
"""Length of a lease in ESMS_TIMEOUT: a short time-out means short leases."""
_UNCONFIRMED: dict[str, list[ColumnElement[bool]]] = {"unregistered": [calls.c.registered_at.is_(None)], "all": []}
"""Which settled calls are to be confirmed, for each value of VERIFY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Which calls are due: open ones that were placed, and are planned, no later than these times.

    With ``verify`` also settled ones that no lookup has confirmed, placed at ``verify_since`` or later.
    """

    placed_until: datetime
    due_until: datetime
    verify: Verify = "conflicts"
    verify_since: datetime | None = None
    within: CallFilter = EVERY_CALL


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that this run has claimed, and what eSMS is asked; ``verifying``: it is settled, and to be confirmed."""

    request: LookupRequest
    placed_at: datetime
    registered: bool
    verifying: bool

    @property
    def reference_id(self) -> str:
        """The call's identity, as it is stored."""
        return self.request.reference_id


def lease_of(settings: Settings) -> timedelta:
    """How long a claim holds; a run that was not seen for longer has died."""
    return _LEASE_TIMEOUTS * settings.esms_timeout


def due_at(
    now: datetime, settings: Settings, *, grace: timedelta | None = None, within: CallFilter = EVERY_CALL
) -> Due:
    """The calls that are due now; ``grace`` is how long a callback may take, if not as the settings say."""
    return Due(
        placed_until=now - (settings.reconcile_grace if grace is None else grace),
        due_until=now,
        verify=settings.verify,
        verify_since=now - settings.reconcile_give_up,
        within=within,
    )


def is_due(due: Due) -> ColumnElement[bool]:
    """The condition that a call is due."""
    return or_(*due_parts(due))


def due_parts(due: Due) -> list[ColumnElement[bool]]:
    """The same in parts that have no call in common: counted one by one, they need no memory for each call."""
    parts = [*_open_parts(due, registered=True), *_open_parts(due, registered=False)]
    if due.verify_since is not None and due.verify in _UNCONFIRMED:
        parts.append(_to_confirm(due))
    return [and_(part, *due.within.conditions()) for part in parts]


def _open_parts(due: Due, *, registered: bool) -> list[ColumnElement[bool]]:
    """Open calls in three parts, each of them in an index that has the longest due first."""
    these = calls.c.registered_at.is_not(None) if registered else calls.c.registered_at.is_(None)
    missing = and_(IS_MISSING, these, calls.c.placed_at <= due.placed_until)
    planned_by_now = calls.c.next_lookup_at <= due.due_until
    parts = [and_(missing, calls.c.next_lookup_at.is_(None)), and_(missing, planned_by_now)]
    return parts if due.verify == "off" else [*parts, and_(calls.c.conflict, these, planned_by_now)]


def _to_confirm(due: Due) -> ColumnElement[bool]:
    """Settled calls that no lookup has confirmed; each is asked about until eSMS decides or the call is too old."""
    may_be_asked = or_(
        and_(calls.c.next_lookup_at.is_(None), calls.c.lookup_backoff == 0), calls.c.next_lookup_at <= due.due_until
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
class _Group:
    """Due calls that are claimed before those of the next group; each part is read in its order from an index."""

    parts: list[ColumnElement[bool]]
    order: tuple[ColumnElement[Any], ...]
    sort_key: ColumnElement[Any] = DUE_SINCE
    """Sorts the calls of all parts together."""
    verifying: bool = False


def _open_groups(due: Due, *, registered: bool) -> list[_Group]:
    """Open calls in the order in which they are claimed: those never asked about, those asked about."""
    longest_due = (calls.c.next_lookup_at, calls.c.placed_at)
    never = calls.c.lookup_count == literal_column("0")  # as the index says it, or SQLite would not use that
    within = and_(true(), *due.within.conditions())
    parts = _open_parts(due, registered=registered)
    return [_Group([and_(part, asked, within) for part in parts], longest_due) for asked in (never, ~never)]


def _confirming_groups(due: Due) -> list[_Group]:
    """Settled calls that are to be confirmed, the first placed first."""
    if due.verify_since is None or due.verify not in _UNCONFIRMED:
        return []
    by_age = (calls.c.placed_at, calls.c.reference_id)
    part = and_(_to_confirm(due), *due.within.conditions())
    return [_Group([part], by_age, sort_key=calls.c.placed_at, verifying=True)]


@retrying
def claim(
    database: Database, due: Due, limit: int, *, now: datetime, until: datetime, reserved: int = 0
) -> list[Claimed]:
    """Claim up to ``limit`` due calls until then: registered ones, then those known from callbacks alone.

    Of each, those never asked about come first, then the longest due. ``reserved`` of them are for calls known from
    callbacks alone, where any are due. Calls that are to be confirmed come last.
    """
    registered, unregistered = _open_groups(due, registered=True), _open_groups(due, registered=False)
    with database.transaction() as connection:
        kept = _claim_in_order(connection, unregistered, min(reserved, limit), now, until)
        first = _claim_in_order(connection, registered, limit - len(kept), now, until)
        last = [*unregistered, *_confirming_groups(due)]
        return [*first, *kept, *_claim_in_order(connection, last, limit - len(first) - len(kept), now, until)]


def _claim_in_order(
    connection: Connection, groups: list[_Group], limit: int, now: datetime, until: datetime
) -> list[Claimed]:
    claimed: list[Claimed] = []
    for group in groups:
        if wanted := limit - len(claimed):
            claimed += _claim_of(connection, group, wanted, now, until)
    return claimed


def _claim_of(connection: Connection, group: _Group, limit: int, now: datetime, until: datetime) -> list[Claimed]:
    """Claim the first calls of the group; those that another run is claiming at this moment are skipped."""
    key, free = calls.c.reference_id, or_(calls.c.claimed_until.is_(None), calls.c.claimed_until <= now)
    first = [
        select(key, group.sort_key.label("sort_key"))
        .where(part, free)
        .order_by(*group.order)
        .limit(limit * _RUNS_AT_ONCE)
        for part in group.parts
    ]
    candidates = union_all(*(select(part.subquery()) for part in first)).subquery()
    in_order = select(candidates.c.reference_id).order_by(candidates.c.sort_key).limit(limit * _RUNS_AT_ONCE)
    for _ in range(_ATTEMPTS):
        if not (names := list(connection.scalars(in_order))):
            break
        # Another run may have claimed them since: the conditions are checked again on the locked rows. "IS TRUE", or
        # PostgreSQL may also read the index of all missing calls, when it does not know yet how many these are.
        still = (bulk.is_one_of(connection, key, names), free, or_(*group.parts).is_(true()))
        locked = select(key).where(*still).order_by(group.sort_key).limit(limit).with_for_update(skip_locked=True)
        mine = locked.cte("mine")
        claim = update(calls).where(key.in_(select(mine.c.reference_id))).values(claimed_until=until)
        columns = (key, calls.c.esms_id, calls.c.kind, calls.c.placed_at, calls.c.registered_at)
        claimed = connection.execute(claim.returning(*columns, group.sort_key.label("sort_key"))).all()
        if claimed or len(names) < limit * _RUNS_AT_ONCE:
            rows = sorted(claimed, key=attrgetter("sort_key", "reference_id"))
            return [
                Claimed(LookupRequest(*row[:3]), row.placed_at, row.registered_at is not None, group.verifying)
                for row in rows
            ]
    return []


def renew(database: Database, leases: Mapping[str, datetime], until: datetime) -> set[str]:
    """Renew the leases of calls, by the times until which they are claimed; the ids of the calls renewed.

    The lease of the other calls has ended, and another run has claimed them since.
    """
    return _set_claimed_until(database, leases, until)


def release(database: Database, leases: Mapping[str, datetime]) -> None:
    """Release calls, by the times until which they are claimed; they stay due as they were."""
    _set_claimed_until(database, leases, None)


@retrying
def _set_claimed_until(database: Database, leases: Mapping[str, datetime], until: datetime | None) -> set[str]:
    key = calls.c.reference_id
    mine = and_(key.in_(leases), calls.c.claimed_until.in_(set(leases.values())))
    in_order = select(key).where(mine).order_by(key).with_for_update()
    statement = update(calls).where(key.in_(in_order)).values(claimed_until=until).returning(key)
    with database.transaction() as connection:
        return set(connection.scalars(statement))
