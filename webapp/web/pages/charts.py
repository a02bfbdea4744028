"""The numbers behind the charts: columns, steps of an axis, classes; no SVG and no text."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from webapp.calls.facts import DELAY_EDGES, TALK_EDGES, WITH_OUTCOME
from webapp.storage.figures import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.storage.figures import Classes

SERIES = ("answered", "delivered", "unanswered", "rejected", "other", "missing")
"""The parts of a column, from its foot; ``unknown`` counts as other, ``given_up`` as missing."""
_PART_OF = {"unknown": "other", "given_up": "missing"}
_LONGEST_BY_DAY, _LONGEST_BY_WEEK = 62, 732
"""Numbers of days."""
_TALK_STEP, _TALK_END = 10, 120
_DELAY_STEPS = (10, 20, 30, 60, 120, 300, 600, 3600, DELAY_EDGES[-1])


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its first and last day, and its calls by outcome."""

    first: date
    last: date
    outcomes: Mapping[str, int]

    @property
    def parts(self) -> dict[str, int]:
        """Its calls by part."""
        return in_series(self.outcomes)

    @property
    def answered_share(self) -> float | None:
        """Of its calls with an outcome; None: there are none, or they are voice OTP."""
        answered, delivered = (self.outcomes.get(name, 0) for name in ("answered", "delivered"))
        with_outcome = sum(self.outcomes.get(name, 0) for name in WITH_OUTCOME)
        return Sums(answered=answered, delivered=delivered, with_outcome=with_outcome).shown_answered_share

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Class:
    """Calls from ``above`` seconds (exclusive) to ``edge``; ``edge`` None: any more. ``up_to_here``: share so far."""

    above: int
    edge: int | None
    calls: int
    share: float
    up_to_here: float


def in_series(outcomes: Mapping[str, int]) -> dict[str, int]:
    """Numbers by outcome as numbers by part of a column."""
    parts: Counter[str] = Counter()
    for outcome, number in outcomes.items():
        parts[_PART_OF.get(outcome, outcome)] += number
    return {name: parts[name] for name in SERIES}


def columns(by_day: Mapping[date, Mapping[str, int]], first: date, last: date) -> list[Column]:
    """A column for each day; of more than 62 days for each week (from Monday), of more than two years for each month.

    Days without calls are there, too.
    """
    starts = _starts(first, last)
    ends = [*(start - timedelta(days=1) for start in starts[1:]), last]
    outcomes: list[Counter[str]] = [Counter() for _ in starts]
    for day, numbers in by_day.items():
        outcomes[bisect_right(starts, day) - 1].update(numbers)
    return [Column(*one) for one in zip(starts, ends, outcomes, strict=True)]


def are_months(first: date, last: date) -> bool:
    """Whether the columns of such days are months."""
    return (last - first).days >= _LONGEST_BY_WEEK


def _starts(first: date, last: date) -> list[date]:
    """The first day of each column."""
    if are_months(first, last):
        months = range(_month(first) + 1, _month(last) + 1)
        return [first, *(date(month // 12, month % 12 + 1, 1) for month in months)]
    days = (last - first).days
    if days < _LONGEST_BY_DAY:
        return [first + timedelta(days=number) for number in range(days + 1)]
    return [first, *(first + timedelta(days=number) for number in range(7 - first.weekday(), days + 1, 7))]


def _month(day: date) -> int:
    """The number of months from the year 0."""
    return day.year * 12 + day.month - 1


def axis(largest: int) -> tuple[int, ...]:
    """Round values from 0 to at least ``largest``: of an axis with two to four steps."""
    step = 1
    while largest > 4 * step:
        step = next(larger for larger in _round_numbers() if larger > step)
    steps = max(1, -(-largest // step))
    return tuple(step * number for number in range(steps + 1))


def _round_numbers() -> Iterable[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def talk_classes(classes: Classes) -> list[Class]:
    """Talk time in classes of ten seconds, and one for all that is longer than two minutes."""
    return _merged_classes(classes, [*range(_TALK_STEP, _TALK_END + 1, _TALK_STEP), TALK_EDGES[-1]])


def delay_classes(classes: Classes) -> list[Class]:
    """Callback delay in classes that widen, the last open."""
    return _merged_classes(classes, list(_DELAY_STEPS))


def _merged_classes(classes: Classes, edges: list[int]) -> list[Class]:
    total = sum(number for _, number in classes)
    found, above, so_far = [], 0, 0
    for edge in edges:
        number = sum(calls for upper, calls in classes if above < upper <= edge)
        so_far += number
        share, up_to_here = (number / total, so_far / total) if total else (0.0, 0.0)
        found.append(Class(above, None if edge == edges[-1] else edge, number, share, up_to_here))
        above = edge
    return found
