"""Reads what /metrics shows of the database: each figure from an index, or from the figures of whole days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, func, select

from webapp.storage import figures, lookup_latencies, runs, status
from webapp.storage.claims import due_parts
from webapp.storage.database import clock
from webapp.storage.figures import Days
from webapp.storage.filters import IS_MISSING
from webapp.storage.lookup_latencies import Latencies
from webapp.storage.models import calls, due_replay, reconcile_runs, rejected_callbacks
from webapp.storage.rejected import is_other_channel, to_see_to
from webapp.storage.runs import RunOutcome
from webapp.storage.status import CallbackTimes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from webapp.storage.claims import Due

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Counts of one moment."""

    missing: tuple[int, int]
    """Never registered, and registered."""
    overdue: int
    oldest_missing: datetime | None
    rejected: Mapping[str, int]
    """Neither replayed nor dismissed, by their reason; without other channels."""
    other_channels: int
    rejected_bytes: int
    callback_at: datetime | None
    """When the newest callback was received."""
    answered_at: datetime | None
    """When eSMS last answered a reconcile run."""
    run_outcome: RunOutcome | None
    run_started_at: datetime | None
    run_ends: Mapping[str, datetime | None]
    """When the newest run with this outcome ended."""
    latencies: Latencies
    clock_ahead: timedelta
    replay_due: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """Counts of the last hour and day."""

    placed: tuple[int, int]
    """In the last day: never registered, and registered."""
    outcomes: Mapping[str, int]
    """Of the calls settled in the last day."""
    settled_by: Mapping[tuple[str, str], int]
    """How many calls were settled, by window (hour, day) and by source."""
    unread: Mapping[str, int]
    callbacks: CallbackTimes
    calls: Mapping[str, int]
    """All calls by outcome, as of the figures."""


@dataclass(frozen=True, slots=True)
class ToDecide:
    """Calls about which a person decides: counts of those that are not dismissed, and of those that are."""

    given_up: tuple[int, int]
    conflicts: tuple[int, int]
    price_conflicts: tuple[int, int]


def read_now(connection: Connection, due: Due, now: datetime, lease: timedelta) -> Now:
    """Counts of calls that are few, the last run, and what is rejected."""
    answered_at = reconcile_runs.c.answered_at
    unregistered = calls.c.registered_at.is_(None)
    last = status.last_run(connection)
    return Now(
        missing=(
            _count_calls(connection, IS_MISSING, unregistered),
            _count_calls(connection, IS_MISSING, ~unregistered),
        ),
        overdue=sum(_count_calls(connection, part) for part in due_parts(due)),
        oldest_missing=connection.scalar(select(func.min(calls.c.placed_at)).where(IS_MISSING)),
        **_count_rejected(connection),
        callback_at=status.last_callback_at(connection),
        answered_at=connection.scalar(select(func.max(answered_at)).where(answered_at.is_not(None))),
        run_outcome=runs.outcome_now(last, now, lease) if last else None,
        run_started_at=last["started_at"] if last else None,
        run_ends={outcome: _last_end(connection, outcome) for outcome in runs.RUN_OUTCOMES},
        latencies=lookup_latencies.read(connection),
        clock_ahead=datetime.now(UTC) - clock(connection),
        replay_due=connection.scalar(select(due_replay.c.since)) is not None,
    )


def _count_calls(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    return connection.scalar(select(func.count()).select_from(calls).where(*conditions)) or 0


def read_to_decide(connection: Connection) -> ToDecide:
    """Counts that read each of these calls, wherever they lie: a second for a hundred thousand."""
    return ToDecide(
        given_up=_by_dismissal(connection, calls.c.gave_up_at.is_not(None)),
        conflicts=_by_dismissal(connection, calls.c.conflict),
        price_conflicts=_by_dismissal(connection, calls.c.price_conflict),
    )


def _by_dismissal(connection: Connection, condition: ColumnElement[bool]) -> tuple[int, int]:
    """How many of these calls are not dismissed, and how many are."""
    of = calls.c.dismissed_at
    counts = select(func.count().filter(of.is_(None)), func.count().filter(of.is_not(None))).where(condition)
    no, yes = connection.execute(counts).one()
    return no, yes


def _count_rejected(connection: Connection) -> dict[str, Any]:
    table = rejected_callbacks
    reasons = select(table.c.reason, func.count()).where(to_see_to()).group_by(table.c.reason)
    others = select(func.count()).where(table.c.replayed_at.is_(None), is_other_channel())
    return {
        "rejected": {reason: number for reason, number in connection.execute(reasons)},  # noqa: C416 - a row is no pair
        "other_channels": connection.scalar(others) or 0,
        "rejected_bytes": int(connection.scalar(select(func.coalesce(func.sum(table.c.size), 0))) or 0),
    }


def _last_end(connection: Connection, outcome: RunOutcome) -> datetime | None:
    of = reconcile_runs.c
    newest = select(of.finished_at).where(of.outcome == outcome).order_by(of.started_at.desc()).limit(1)
    ended: datetime | None = connection.scalar(newest)
    return ended


def read_recent(connection: Connection, due: Due, now: datetime) -> Recent:
    """Counts that read a row for each call of the last day, and the figures."""
    of = (calls.c.outcome, calls.c.settled_by)
    number = func.count()
    query = select(*of, number, number.filter(calls.c.settled_at > now - _HOUR)).group_by(*of)
    outcomes: Counter[str] = Counter()
    settled_by: Counter[tuple[str, str]] = Counter()
    for outcome, source, of_day, of_hour in connection.execute(query.where(status.settled_last_day(now))):
        outcomes[outcome] += of_day
        settled_by["day", source] += of_day
        settled_by["hour", source] += of_hour
    unregistered = calls.c.registered_at.is_(None)
    placed = select(number.filter(unregistered), number.filter(~unregistered))
    never, registered = connection.execute(placed.where(calls.c.placed_at.between(now - _DAY, now))).one()
    return Recent(
        placed=(never, registered),
        outcomes=outcomes,
        settled_by=settled_by,
        unread=status.unread_last_day(connection, now),
        callbacks=status.callbacks(connection, due, now),
        calls=figures.counts(connection, Days(), "outcome"),
    )
