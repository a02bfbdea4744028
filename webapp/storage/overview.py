"""Reads what the overview of the page shows, in one snapshot: figures of whole days, and what needs a look now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select

from webapp.storage import figures, status
from webapp.storage.figures import Classes, Days, Percentiles, Sums, percentiles
from webapp.storage.filters import IS_MISSING
from webapp.storage.models import call_rollups, calls, reconcile_runs
from webapp.storage.status import CallbackTimes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from webapp.storage.claims import Due

_RUNS = 6
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Hour:
    """Calls of one weekday and hour, or of one of them."""

    calls: int = 0
    with_outcome: int = 0
    answered: int = 0

    def plus(self, other: Hour) -> Hour:
        """Both together."""
        numbers = (self.calls + other.calls, self.with_outcome + other.with_outcome, self.answered + other.answered)
        return Hour(*numbers)


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign, or the calls without one (``name`` None)."""

    name: str | None
    sums: Sums
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a person should look at, whenever it was placed.

    ``oldest``: when the oldest missing call was placed; ``is_late``: whether its grace is over.
    """

    missing: int
    oldest: datetime | None
    is_late: bool
    conflicts: int
    price_conflicts: int
    callbacks: CallbackTimes


@dataclass(frozen=True, slots=True)
class Compared:
    """The wanted days, and as many days before them.

    ``until_hour``: the last day of both counts up to this hour, for today is not over; None: all days are whole.
    """

    now: Sums
    before: Sums
    until_hour: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All figures of the wanted days."""

    sums: Sums
    outcomes: Mapping[str, int]
    compared: Compared | None
    by_day: Mapping[date, Mapping[str, int]]
    by_hour: Mapping[tuple[int, int], Hour]
    """By weekday (1 to 7) and hour."""
    keys: Mapping[str, int]
    talk: Classes
    delay: Classes
    campaigns: list[Campaign]
    runs: list[Mapping[str, Any]]
    needs: Needs
    conflicts_ever: int
    """Of all days and campaigns."""

    @property
    def settled(self) -> int:
        """The number of calls with a final report."""
        return figures.settled(self.outcomes)

    @property
    def talk_edges(self) -> Percentiles:
        """Percentiles of talk time."""
        return percentiles(self.talk)

    @property
    def delay_edges(self) -> Percentiles:
        """Percentiles of callback delay."""
        return percentiles(self.delay)

    @property
    def last_run(self) -> Mapping[str, Any] | None:
        """The newest reconcile run; None: there was none."""
        return next(iter(self.runs), None)


def read_overview(connection: Connection, days: Days, due: Due, now: datetime) -> Overview:
    """The overview of these days; ``now`` is in the time zone of the figures."""
    totals = figures.sums_by_label(connection, days, "outcome")
    sums = figures.total(totals.values())
    return Overview(
        sums=sums,
        outcomes={label: sums.calls for label, sums in totals.items()},
        compared=_compared(connection, days, sums, now),
        by_day=_by_day(connection, days),
        by_hour=_by_hour(connection, days),
        keys=figures.counts(connection, days, "key"),
        talk=figures.classes(connection, days, "talk"),
        delay=figures.classes(connection, days, "delay"),
        campaigns=campaigns(connection, days),
        runs=_runs(connection),
        needs=_needs(connection, due, now),
        conflicts_ever=figures.conflicts_ever(connection),
    )


def campaigns(connection: Connection, days: Days) -> list[Campaign]:
    """The campaigns with calls on these days, the largest first."""
    of = call_rollups.c
    query = select(of.campaign, of.label, *figures.SUMS).where(and_(*days.conditions("outcome", scope="each")))
    found: defaultdict[str | None, dict[str, Sums]] = defaultdict(dict)
    for name, label, *numbers in connection.execute(query.group_by(of.campaign, of.label)):
        found[name][label] = Sums(*map(int, numbers))
    all_of_them = [
        Campaign(name, figures.total(by_label.values()), {label: sums.calls for label, sums in by_label.items()})
        for name, by_label in found.items()
    ]
    return sorted(all_of_them, key=lambda one: (-one.sums.calls, one.name or ""))


def campaign_names(connection: Connection) -> list[str]:
    """All campaigns with figures, in order."""
    of = call_rollups.c
    query = select(of.campaign).where(of.scope == "campaign", of.facet == "outcome").distinct()
    return sorted(connection.scalars(query))


def _compared(connection: Connection, days: Days, sums: Sums, now: datetime) -> Compared | None:
    """None: these days have no beginning, or lie ahead."""
    today, tomorrow = now.date(), now.date() + _DAY
    if days.since is None or days.until is None or days.until > tomorrow:
        return None
    length = days.until - days.since
    if days.until < tomorrow:
        before = Days(days.since - length, days.since, days.campaign)
        return Compared(sums, _total(connection, before), None)
    return Compared(
        _up_to_hour(connection, days.since, today, days.campaign, now.hour),
        _up_to_hour(connection, days.since - length, today - length, days.campaign, now.hour),
        until_hour=now.hour,
    )


def _up_to_hour(connection: Connection, first: date, last: date, campaign: str | None, hour: int) -> Sums:
    """The figures of these days, but of the last one only those before this hour."""
    hours = figures.sums_by_label(connection, Days(last, last + _DAY, campaign), "hour")
    passed = figures.total(sums for label, sums in hours.items() if int(label) < hour)
    return _total(connection, Days(first, last, campaign)).plus(passed)


def _total(connection: Connection, days: Days) -> Sums:
    return figures.total(figures.sums_by_label(connection, days, "outcome").values())


def _by_day(connection: Connection, days: Days) -> dict[date, dict[str, int]]:
    of = call_rollups.c
    query = select(of.local_day, of.label, of.calls).where(and_(*days.conditions("outcome"))).order_by(of.local_day)
    found: defaultdict[date, dict[str, int]] = defaultdict(dict)
    for day, label, number in connection.execute(query):
        found[day][label] = number
    return found


def _by_hour(connection: Connection, days: Days) -> dict[tuple[int, int], Hour]:
    of = call_rollups.c
    query = select(of.local_day, of.label, of.calls, of.with_outcome, of.answered)
    found: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for day, label, *numbers in connection.execute(query.where(and_(*days.conditions("hour")))):
        cell = found[day.isoweekday(), int(label)]
        for place, number in enumerate(numbers):
            cell[place] += number
    return {name: Hour(*numbers) for name, numbers in found.items()}


def _runs(connection: Connection) -> list[Mapping[str, Any]]:
    newest = select(reconcile_runs).order_by(reconcile_runs.c.started_at.desc()).limit(_RUNS)
    return [dict(row) for row in connection.execute(newest).mappings()]


def _needs(connection: Connection, due: Due, now: datetime) -> Needs:
    """Counted in ``calls`` by partial indexes: now, not as of the figures."""
    missing, oldest = connection.execute(select(func.count(), func.min(calls.c.placed_at)).where(IS_MISSING)).one()
    return Needs(
        missing=missing,
        oldest=oldest,
        is_late=oldest is not None and oldest <= due.placed_until,
        conflicts=connection.scalar(select(func.count()).where(calls.c.conflict)) or 0,
        price_conflicts=connection.scalar(
            select(func.count()).where(calls.c.price_conflict, calls.c.dismissed_at.is_(None))
        )
        or 0,
        callbacks=status.callbacks(connection, due, now),
    )
