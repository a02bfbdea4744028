"""Counts everything that ``esms-calls status`` shows, of one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select

from webapp.esms.lookup import NO_ANSWER, NO_ANSWER_PREFIX
from webapp.storage import token_counts
from webapp.storage.claims import Due, is_due
from webapp.storage.database import clock
from webapp.storage.filters import IS_MISSING
from webapp.storage.models import calls, due_replay, reconcile_runs, rejected_callbacks, status_reports
from webapp.storage.rejected import is_other_channel, to_see_to
from webapp.storage.token_counts import TokenUse

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Connection

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_GAPS_OF = timedelta(days=7)
_FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
_SHOWN = 20
_SHOWN_REASONS = 3
_NOT_DISMISSED = calls.c.dismissed_at.is_(None)
_IS_GIVEN_UP = calls.c.gave_up_at.is_not(None)
_HAD_NO_ANSWER = or_(
    calls.c.last_lookup_code.in_(sorted(NO_ANSWER)), calls.c.last_lookup_code.startswith(NO_ANSWER_PREFIX)
)
_REJECTED_TO_SEE_TO = to_see_to()
_CALLBACK_AT = status_reports.c.received_at
_IS_CALLBACK = status_reports.c.source == "callback"


@dataclass(frozen=True, slots=True)
class LookupShare:
    """How many calls were settled in the last 24 hours, and how many of these by a lookup."""

    settled: int
    by_lookup: int

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where none was settled."""
        return self.by_lookup / self.settled if self.settled else None


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Missing calls whose last look-up had no answer, by its code, while eSMS has given no answer since.

    ``since`` is eSMS's last answer; None: it never gave one.
    """

    codes: Mapping[str, int]
    since: datetime | None


@dataclass(frozen=True, slots=True)
class CallbackTimes:
    """When callbacks come. ``longest_gap``: between two of the last 7 days, at least an hour.

    ``placed_since``: calls were placed after the last callback, and their grace is over.
    """

    last_at: datetime | None
    longest_gap: timedelta
    placed_since: bool

    def have_stopped(self, now: datetime) -> bool:
        """Whether none came for longer than usual, although calls were placed."""
        return bool(self.last_at and self.placed_since and now - self.last_at > self.longest_gap)


@dataclass(frozen=True, slots=True)
class WrongTokens:
    """Requests with a wrong token in the last hour. ``right_since``: one with a right token came after the last."""

    count: int
    last_at: datetime | None
    right_since: bool
    last_day: int = 0


@dataclass(frozen=True, slots=True)
class UnregisteredCounts:
    """Calls that were never registered: all, those missing, those new in the last day and the day before.

    ``registered_last_day``: how many registered calls were new in the last day.
    """

    count: int = 0
    missing: int = 0
    last_day: int = 0
    day_before: int = 0
    registered_last_day: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts of one moment. Those "to see to" are the ones that no person has dismissed."""

    calls: int
    settled: int
    by_callback: int
    by_lookup: int
    missing: int
    overdue: int
    oldest_missing: datetime | None
    given_up: int
    given_up_to_see_to: int
    given_up_calls: list[str]
    unregistered: UnregisteredCounts = UnregisteredCounts()
    last_day: LookupShare
    conflicts: int
    price_conflicts: int
    price_conflict_calls: list[str]
    rejected: int
    rejected_reasons: Mapping[str, int]
    """The most frequent ones, with their numbers."""
    rejected_bytes: int
    other_channels: int
    unread_last_day: Mapping[str, int]
    no_answer: NoAnswer
    callbacks: CallbackTimes
    wrong_tokens: WrongTokens
    not_allowed_last_hour: int = 0
    """Callbacks with a right token from addresses that CALLBACK_ALLOWED_IPS does not name."""
    not_allowed_last_day: int = 0
    token_uses: list[TokenUse]
    """The tokens with which callbacks came in the last day."""
    replay_due_since: datetime | None
    clock_ahead: timedelta
    """How far this machine's clock is ahead of the database's."""
    last_run: Mapping[str, Any] | None


def read_status(connection: Connection, due: Due, now: datetime) -> Status:
    """Everything, by this database's rows."""
    found = _counts(connection, due, now)
    came = callbacks(connection, due, now)
    return Status(
        **found,
        **_rejected_figures(connection),
        rejected_reasons=_rejected_reasons(connection),
        given_up_calls=_first(connection, _IS_GIVEN_UP) if found["given_up_to_see_to"] else [],
        price_conflict_calls=_first(connection, calls.c.price_conflict) if found["price_conflicts"] else [],
        last_day=lookup_share(connection, now),
        unread_last_day=dict(unread_last_day(connection, now).most_common(_SHOWN)),
        no_answer=_no_answer(connection),
        callbacks=came,
        wrong_tokens=_wrong_tokens(connection, came.last_at, now),
        not_allowed_last_hour=token_counts.not_allowed_since(connection, now - _HOUR),
        not_allowed_last_day=token_counts.not_allowed_since(connection, now - _DAY),
        token_uses=token_counts.uses_since(connection, now - _DAY),
        replay_due_since=connection.scalar(select(due_replay.c.since)),
        clock_ahead=datetime.now(UTC) - clock(connection),
        last_run=last_run(connection),
    )


def lookup_share(connection: Connection, now: datetime) -> LookupShare:
    """Of the calls settled in the 24 hours before ``now``; read from an index."""
    by_lookup = func.count().filter(calls.c.settled_by == "lookup")
    return LookupShare(*connection.execute(select(func.count(), by_lookup).where(settled_last_day(now))).one())


def settled_last_day(now: datetime) -> ColumnElement[bool]:
    """Whether a call was settled in the 24 hours before ``now``; found by an index."""
    return calls.c.settled_at.between(now - _DAY, now)


def _counts(connection: Connection, due: Due, now: datetime) -> dict[str, Any]:
    number, unregistered, new_since = func.count(), calls.c.registered_at.is_(None), calls.c.created_at
    last_day = new_since.between(now - _DAY, now)
    growth = (
        number.filter(unregistered),
        number.filter(unregistered, IS_MISSING),
        number.filter(unregistered, last_day),
        number.filter(unregistered, new_since >= now - 2 * _DAY, new_since < now - _DAY),
        number.filter(~unregistered, last_day),
    )
    counts = select(
        number.label("calls"),
        number.filter(calls.c.settled_at.is_not(None)).label("settled"),
        number.filter(calls.c.settled_by == "callback").label("by_callback"),
        number.filter(calls.c.settled_by == "lookup").label("by_lookup"),
        number.filter(IS_MISSING).label("missing"),
        number.filter(is_due(due)).label("overdue"),
        func.min(calls.c.placed_at).filter(IS_MISSING).label("oldest_missing"),
        number.filter(_IS_GIVEN_UP).label("given_up"),
        number.filter(_IS_GIVEN_UP, _NOT_DISMISSED).label("given_up_to_see_to"),
        number.filter(calls.c.conflict).label("conflicts"),
        number.filter(calls.c.price_conflict, _NOT_DISMISSED).label("price_conflicts"),
    )
    # One look at all calls for both.
    row = connection.execute(counts.add_columns(*(one.label(f"growth_{at}") for at, one in enumerate(growth)))).one()
    known = len(row) - len(growth)
    named = dict(zip(row._fields[:known], row[:known], strict=True))
    return named | {"unregistered": UnregisteredCounts(*row[known:])}


def _first(connection: Connection, condition: Any) -> list[str]:
    oldest_first = (calls.c.placed_at, calls.c.reference_id)
    first = select(calls.c.reference_id).where(condition, _NOT_DISMISSED).order_by(*oldest_first).limit(_SHOWN)
    return list(connection.scalars(first))


def _rejected_figures(connection: Connection) -> dict[str, Any]:
    table = rejected_callbacks
    query = select(
        func.count().filter(_REJECTED_TO_SEE_TO).label("rejected"),
        func.coalesce(func.sum(table.c.size), 0).label("rejected_bytes"),
        func.count().filter(table.c.replayed_at.is_(None), is_other_channel()).label("other_channels"),
    )
    return {name: int(value) for name, value in connection.execute(query).mappings().one().items()}


def _rejected_reasons(connection: Connection) -> dict[str, int]:
    table = rejected_callbacks
    number = func.count()
    query = select(table.c.reason, number).where(_REJECTED_TO_SEE_TO).group_by(table.c.reason)
    most = query.order_by(number.desc(), table.c.reason).limit(_SHOWN_REASONS)
    return {reason: count for reason, count in connection.execute(most)}  # noqa: C416 - a row is no pair to mypy


def unread_last_day(connection: Connection, now: datetime) -> Counter[str]:
    """How many reports of the last day have a value that could not be read, by the parameter's name."""
    last_day = (status_reports.c.unread.is_not(None), status_reports.c.received_at > now - _DAY)
    query = select(status_reports.c.unread, func.count()).where(*last_day).group_by(status_reports.c.unread)
    counts: Counter[str] = Counter()
    for names, number in connection.execute(query):
        counts.update(dict.fromkeys(names.split(","), number))
    return counts


def _no_answer(connection: Connection) -> NoAnswer:
    run = reconcile_runs.c
    # updated_at is also when a report or a registration changed such a call: its look-up was in a run that failed.
    may_have_failed = or_(run.failed > 0, run.outcome.is_(None), run.outcome == "died")
    failed_at = func.max(func.coalesce(run.finished_at, _FAR_FUTURE)).filter(may_have_failed)
    answered_at, failed_at = connection.execute(select(func.max(run.answered_at), failed_at)).one()
    code = calls.c.last_lookup_code
    query = (
        select(code, func.count(), func.max(calls.c.updated_at))
        .where(IS_MISSING, calls.c.lookup_count > 0, _HAD_NO_ANSWER)
        .group_by(code)
        .order_by(code)
    )
    rows = connection.execute(query).all()
    if not rows or (answered_at and min(max(at for _, _, at in rows), failed_at or _FAR_FUTURE) <= answered_at):
        return NoAnswer({}, answered_at)
    return NoAnswer({name: number for name, number, _ in rows}, answered_at)


def callbacks(connection: Connection, due: Due, now: datetime) -> CallbackTimes:
    """When callbacks come."""
    last_at = last_callback_at(connection)
    placed_since = select(calls.c.reference_id).where(calls.c.placed_at <= due.placed_until).limit(1)
    if last_at:
        placed_since = placed_since.where(calls.c.placed_at > last_at)
    return CallbackTimes(last_at, _longest_gap(connection, now), connection.scalar(placed_since) is not None)


def last_callback_at(connection: Connection) -> datetime | None:
    """When the newest callback was received; None: none came."""
    last_at: datetime | None = connection.scalar(select(func.max(_CALLBACK_AT)).where(_IS_CALLBACK))
    return last_at


def _longest_gap(connection: Connection, now: datetime) -> timedelta:
    """The longest time between two callbacks of the last 7 days, at least an hour.

    Two questions to the index an hour of these: the last callback within an hour, else the next one.
    """
    at = connection.scalar(select(func.min(_CALLBACK_AT)).where(_IS_CALLBACK, now - _GAPS_OF <= _CALLBACK_AT))
    longest = _HOUR
    while at is not None:
        within = select(func.max(_CALLBACK_AT)).where(_IS_CALLBACK, at < _CALLBACK_AT, at + _HOUR >= _CALLBACK_AT)
        following = connection.scalar(within)
        if following is None:
            following = connection.scalar(select(func.min(_CALLBACK_AT)).where(_IS_CALLBACK, at < _CALLBACK_AT))
            longest = max(longest, following - at) if following else longest
        at = following
    return longest


def _wrong_tokens(connection: Connection, last_callback_at: datetime | None, now: datetime) -> WrongTokens:
    number, last_at = token_counts.wrong_since(connection, now - _HOUR)
    last_day, _ = token_counts.wrong_since(connection, now - _DAY)
    rejected_at = connection.scalar(select(func.max(rejected_callbacks.c.last_at)))
    right_at = max((at for at in (last_callback_at, rejected_at) if at), default=None)
    return WrongTokens(
        number, last_at, right_since=bool(last_at and right_at and right_at > last_at), last_day=last_day
    )


def last_run(connection: Connection) -> Mapping[str, Any] | None:
    """The row of the run that began last; None: there was none."""
    newest = select(reconcile_runs).order_by(reconcile_runs.c.started_at.desc()).limit(1)
    row = connection.execute(newest).mappings().first()
    return dict(row) if row else None
