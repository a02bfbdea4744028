"""Reads the figures of whole local days: what page and ``report`` show, in sums of ``call_rollups``."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import and_, case, func, literal_column, select

from webapp.calls.facts import percentile
from webapp.calls.outcome import OUTCOMES_OF_SETTLED
from webapp.storage.models import call_rollups, kept_rollups, status_reports
from webapp.storage.rollups import figures_as_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.engine import Connection

Group = Literal["hour", "weekday", "day", "campaign", "key"]
Classes = list[tuple[int, int]]
"""Pairs of the upper edge of a class, in seconds, and its number of calls."""
GROUPS: tuple[Group, ...] = ("hour", "weekday", "day", "campaign", "key")


@dataclass(frozen=True, slots=True)
class Days:
    """Local days whose figures are wanted, ``since`` inclusive, ``until`` exclusive, and the campaign; None is any."""

    since: date | None = None
    until: date | None = None
    campaign: str | None = None

    def conditions(self, facet: str, scope: str = "all") -> list[ColumnElement[bool]]:
        """As SQL, for one facet; ``scope``: what to read where no campaign is wanted."""
        of = call_rollups.c
        if self.campaign is not None:
            of_scope = of.scope == "campaign"
        else:
            of_scope = of.scope == "all" if scope == "all" else of.scope.in_(("campaign", "none"))
        return [of_scope, *self.conditions_of(call_rollups, facet)]

    def conditions_of(self, table: Table, facet: str) -> list[ColumnElement[bool]]:
        """The same for a table of figures without scopes: each row is about one campaign, or about none."""
        of = table.c
        wanted = [of.facet == facet]
        if self.campaign is not None:
            wanted.append(of.campaign == unicodedata.normalize("NFC", self.campaign))
        if self.since is not None:
            wanted.append(of.local_day >= self.since)
        if self.until is not None:
            wanted.append(of.local_day < self.until)
        return wanted


@dataclass(frozen=True, slots=True)
class Sums:
    """Figures of some calls; see the comments of ``call_rollups``."""

    calls: int = 0
    with_outcome: int = 0
    answered: int = 0
    timed: int = 0
    answered_seconds: int = 0
    price: int = 0
    price_fraction: int = 0
    unpriced: int = 0
    recovered: int = 0
    conflicts: int = 0
    confirmed: int = 0
    unregistered: int = 0
    delivered: int = 0
    delivered_price: int = 0
    """In 1/10,000 VND, of the delivered calls; these two are of the facet outcome, other facets do not have them."""

    @property
    def answered_share(self) -> float | None:
        """Answered calls of the answered, unanswered and other ones, from 0 to 1; None: of none."""
        return self.answered / self.with_outcome if self.with_outcome else None

    @property
    def shown_answered_share(self) -> float | None:
        """The same for people: None of voice OTP calls, too, for eSMS only says whether they were delivered."""
        return None if self.delivered_share is not None else self.answered_share

    @property
    def delivered_share(self) -> float | None:
        """Of voice OTP calls, the share that was delivered and did not fail; None where calls were answered."""
        if self.answered or not self.delivered:
            return None
        return self.delivered / (self.delivered + self.with_outcome)

    @property
    def mean_talk_seconds(self) -> float | None:
        """Of the answered calls whose length is known; None: of none."""
        return self.answered_seconds / self.timed if self.timed else None

    @property
    def price_vnd(self) -> Decimal:
        """Known prices together."""
        return self.price + Decimal(self.price_fraction) / 10_000

    @property
    def answered_call_vnd(self) -> Decimal | None:
        """What an answered call cost: prices of all calls but delivered ones, which are voice OTP; None: of none."""
        if not self.answered:
            return None
        return (self.price_vnd - Decimal(self.delivered_price) / 10_000) / self.answered

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(*(getattr(self, name) + getattr(other, name) for name in _SUM_NAMES))


def total(of: Iterable[Sums]) -> Sums:
    """All together."""
    return reduce(Sums.plus, of, Sums())


_SUM_NAMES = tuple(Sums.__dataclass_fields__)
_SUMMED_COLUMNS = tuple(name for name in _SUM_NAMES if name not in {"delivered", "delivered_price"})
_IS_DELIVERED = and_(call_rollups.c.facet == "outcome", call_rollups.c.label == "delivered")
_OF_DELIVERED = {
    "delivered": call_rollups.c.calls,
    "delivered_price": call_rollups.c.price * 10_000 + call_rollups.c.price_fraction,
}
SUMS = [
    *(func.coalesce(func.sum(call_rollups.c[name]), 0).label(name) for name in _SUMMED_COLUMNS),
    *(
        func.coalesce(func.sum(case((_IS_DELIVERED, number), else_=0)), 0).label(name)
        for name, number in _OF_DELIVERED.items()
    ),
]


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Upper edges, in seconds, of the classes with these percentiles; None: of nothing."""

    p50: int | None
    p90: int | None
    p95: int | None
    p99: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of all wanted calls together, and the numbers of calls by outcome."""

    sums: Sums
    outcomes: dict[str, int]
    talk: Percentiles
    delay: Percentiles
    conflicts_ever: int
    """Of all days and campaigns."""

    @property
    def settled(self) -> int:
        """The number of calls with a final report."""
        return settled(self.outcomes)


@dataclass(frozen=True, slots=True)
class AsOf:
    """Changes up to ``at`` are in the figures, whose days are of ``time_zone``; ``waiting``: marks of later ones."""

    at: datetime
    time_zone: str
    waiting: int


def as_of(connection: Connection) -> AsOf:
    """How recent the figures are."""
    return AsOf(*connection.execute(select(figures_as_of)).one())


def summary(connection: Connection, days: Days) -> Summary:
    """All wanted calls together."""
    outcomes = sums_by_label(connection, days, "outcome")
    by_size = {name: sums.calls for name, sums in sorted(outcomes.items(), key=lambda item: -item[1].calls)}
    talk, delay = (classes(connection, days, facet) for facet in ("talk", "delay"))
    return Summary(total(outcomes.values()), by_size, percentiles(talk), percentiles(delay), conflicts_ever(connection))


def settled(outcomes: Mapping[str, int]) -> int:
    """The number of calls with a final report, of the numbers of calls by outcome."""
    return sum(number for name, number in outcomes.items() if name in OUTCOMES_OF_SETTLED)


def conflicts_ever(connection: Connection) -> int:
    """The number of calls that callbacks ever disagreed about, of all days and campaigns: exact now."""
    of = status_reports.c
    # Written out, as the index of these few reports has it.
    query = select(func.count(of.reference_id.distinct())).where(of.effect == literal_column("'conflict'"))
    return connection.scalar(query) or 0


def groups(connection: Connection, days: Days, by: Group) -> list[tuple[Any, Sums]]:
    """Groups with their sums: hours 0 to 23, weekdays 1 to 7, dates, keys in order; campaigns by size, None is one too.

    Grouped by key, only answered calls count.
    """
    of = call_rollups.c
    if by == "campaign":
        found = _sums_by(connection, days, "outcome", of.campaign, scope="each")
        return sorted(found.items(), key=lambda item: (-item[1].calls, item[0] or ""))
    if by in {"hour", "key"}:
        found = sums_by_label(connection, days, by)
        return sorted((int(label) if by == "hour" else label, sums) for label, sums in found.items())
    by_day = _sums_by(connection, days, "outcome", of.local_day)
    if by == "day":
        return sorted(by_day.items())
    return sorted(_merged_sums(by_day, lambda day: day.isoweekday()).items())


def sums_by_label(connection: Connection, days: Days, facet: str) -> dict[str, Sums]:
    """The sums of a facet by label."""
    return _sums_by(connection, days, facet, call_rollups.c.label)


def purged(connection: Connection, days: Days, facet: str) -> dict[str, Sums]:
    """The part of ``sums_by_label`` whose calls were purged: figures count them, lists do not have them."""
    of = kept_rollups.c
    sums = (func.sum(of[name]) for name in _SUMMED_COLUMNS)
    query = select(of.label, *sums).where(*days.conditions_of(kept_rollups, facet)).group_by(of.label)
    found = connection.execute(query)
    return {row[0]: Sums(*map(int, row[1:])) for row in found}


def counts(connection: Connection, days: Days, facet: str) -> dict[str, int]:
    """The numbers of calls of a facet by label."""
    of = call_rollups.c
    query = select(of.label, func.sum(of.calls)).where(and_(*days.conditions(facet))).group_by(of.label)
    return {label: int(number) for label, number in connection.execute(query)}


def classes(connection: Connection, days: Days, facet: str) -> Classes:
    """The classes of talk time or callback delay, in order."""
    return sorted((int(label), number) for label, number in counts(connection, days, facet).items())


def _sums_by(
    connection: Connection, days: Days, facet: str, key: ColumnElement[Any], scope: str = "all"
) -> dict[Any, Sums]:
    query = select(key, *SUMS).where(and_(*days.conditions(facet, scope))).group_by(key)
    return {row[0]: Sums(*map(int, row[1:])) for row in connection.execute(query)}


def _merged_sums(found: dict[date, Sums], key: Callable[[date], int]) -> dict[int, Sums]:
    merged: defaultdict[int, Sums] = defaultdict(Sums)
    for name, sums in found.items():
        merged[key(name)] = merged[key(name)].plus(sums)
    return merged


def percentiles(of: Classes) -> Percentiles:
    """The edges of the classes with these percentiles."""
    return Percentiles(*(percentile(of, percent) for percent in (50, 90, 95, 99)))
