"""Takes one more report into a call wherever it stands in the order, without reading the call's history again.

Gives what ``rule.fold_all`` gives for the whole set. Pure like the rule: knows no clock, no database and no Flask.

For each field, the rule comes down to two sentences about the set of reports:

- The call has what the newest final lookup said, else what the newest final callback said, else what was the newest
  progress before the first final report. (Where a lookup beats nobody, final reports of any source are one rank.)
- There is a conflict if what final callbacks said since the last final lookup, and what the call had when they came, is
  not all the same. (Without a lookup, since the first final report.)

So only two things are ever asked about what one rank of reports said of one field: what came last up to a moment, and
whether it changed after that moment. The last run of equal values, and the value before it, answer both: whoever asks
about an earlier moment hears that it changed since then, and for a conflict that is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID

from webapp.calls.report import CONFIRMABLE, FIELDS, StatusReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.calls.rule import Call

Order = tuple[datetime, UUID]
Rank = Literal["progress", "final", "confirmed"]
"""A report that is not final; one that is; a final lookup, for the fields in which it beats a callback."""


class _Forgotten(Exception):
    """The answer is no longer in the trail; the history knows it."""


class Sayings(NamedTuple):
    """What reports of one rank said of one field: ``value`` since ``start``, and ``other_value`` last before that."""

    oldest: Order
    start: Order
    newest: Order
    other: Order | None
    sure: bool
    """Whether the run began at ``start``; else it began there or before, but after ``other``."""
    value: Any
    other_value: Any

    def with_one_more(self, order: Order, value: Any) -> Sayings:
        """The same with one more, which may stand at any place."""
        more = self._replace(oldest=min(self.oldest, order))
        if self.other and order < self.other:
            return more
        if order > self.newest:
            if value == self.value:
                return more._replace(newest=order, value=value)
            return Sayings(more.oldest, order, order, self.newest, sure=True, value=value, other_value=self.value)
        if value == self.value:
            return more._replace(start=min(self.start, order))
        more = more._replace(other=order, other_value=value)
        return more if order < self.start else more._replace(start=self.newest, sure=False)

    def last(self, until: Order | None) -> Any:
        """The last value up to and at that place (None: of all); None if nothing was said yet."""
        if until is None or self.start <= until:
            return self.value
        if until < self.oldest:
            return None
        if self.sure and self.other and self.other <= until:
            return self.other_value
        raise _Forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What is kept of all reports of one call, of a size that does not depend on their number.

    It holds what reports said and nothing of what was registered, so registrations leave it as it is.
    """

    count: int = 0
    oldest: Order | None = None
    newest: Order | None = None
    settled: Order | None = None
    """The first final report."""
    called_back: Order | None = None
    """The first final callback."""
    confirmed: Order | None = None
    """The newest final lookup."""
    sayings: Mapping[tuple[Rank, str], Sayings] = field(default_factory=dict)

    def dumps(self) -> str:
        """The trail as JSON in ASCII; places in the order are long and recur, so each is written once and numbered."""
        numbers: dict[Order | None, int | None] = {None: None}

        def number(order: Order | None) -> int | None:
            return numbers.setdefault(order, len(numbers) - 1)

        marks = [number(getattr(self, name)) for name in _MARKS]
        rows = [[*key, *map(number, said[:4]), *said[4:]] for key, said in self.sayings.items()]
        orders = [(order[0].isoformat(), order[1].hex) for order in numbers if order]
        return json.dumps([self.count, orders, marks, rows], separators=(",", ":"), default=str)

    @classmethod
    def loads(cls, text: str) -> Trail:
        """The trail that was dumped."""
        count, written, numbers, rows = json.loads(text)
        orders = {number: (datetime.fromisoformat(at), UUID(id_)) for number, (at, id_) in enumerate(written)}
        marks: dict[str, Any] = dict(zip(_MARKS, map(orders.get, numbers), strict=True))
        sayings: dict[tuple[Rank, str], Sayings] = {}
        for rank, name, *places, sure, value, other_value in rows:
            values = [Decimal(v) if v and name == "price" else v for v in (value, other_value)]
            sayings[rank, name] = Sayings._make([*map(orders.get, places), sure, *values])
        return cls(count=count, sayings=sayings, **marks)


_MARKS = ("oldest", "newest", "settled", "called_back", "confirmed")


def trail_of(reports: Iterable[StatusReport]) -> Trail:
    """The trail of a whole history, in whatever order it is given and however often; it tells the call for certain."""
    history = sorted({report.id: report for report in reports}.values(), key=lambda report: report.order)
    return reduce(_heard, history, Trail())


def insert(trail: Trail, call: Call, report: StatusReport) -> tuple[Trail, Call] | None:
    """The trail and the call (a row as it stands, with its trail) after one more report, which must not be in it yet.

    None where the history has to be read (``trail_of`` then makes a trail that tells again):

    - The trail is not that of the call's reports: someone wrote the row without it.
    - The first final report came later than progress that stands after it, and no final report says a field that this
      progress says: what stood before may be forgotten. So a late settling may need the history, not each late report.
    - A final callback came later than ones that stand after it, agree with each other and contradict it; and the newest
      final lookup stands among these, but no lookup says the field: where their agreement began may be forgotten.
    """
    if trail.count != call.report_count:
        return None
    trail = _heard(trail, report)
    try:
        return trail, _told(trail, call)
    except _Forgotten:
        return None


def _heard(trail: Trail, report: StatusReport) -> Trail:
    """The trail with one more report."""
    order = report.order
    marks: dict[str, Any] = {
        "oldest": min(trail.oldest or order, order),
        "newest": max(trail.newest or order, order),
    }
    if report.final:
        marks["settled"] = min(trail.settled or order, order)
        if report.source == "callback":
            marks["called_back"] = min(trail.called_back or order, order)
        else:
            marks["confirmed"] = max(trail.confirmed or order, order)
    trail = replace(trail, count=trail.count + 1, **marks)
    if not report.final and trail.settled and order > trail.settled:
        return trail
    sayings = dict(trail.sayings)
    for name, value in report.said().items():
        key = _rank(report, name), name
        alone = Sayings(order, order, order, None, sure=True, value=value, other_value=None)
        sayings[key] = sayings.get(key, alone).with_one_more(order, value)
    if trail.settled:
        sayings = {key: said for key, said in sayings.items() if key[0] != "progress" or said.oldest < trail.settled}
    return replace(trail, sayings=sayings)


def _rank(report: StatusReport, name: str) -> Rank:
    if not report.final:
        return "progress"
    return "confirmed" if report.source == "lookup" and name in CONFIRMABLE else "final"


def _told(trail: Trail, call: Call) -> Call:
    """The call as the trail makes it. Raises _Forgotten."""
    told = {name: _believed(trail, name) for name in FIELDS if name not in call.registered_fields}
    if "placed_at" not in call.registered_fields:
        told["placed_at"] = min(filter(None, (call.registered_at, _at(trail.oldest))))
    return replace(
        call,
        callback_at=_at(trail.called_back),
        settled_at=_at(trail.settled),
        settled_by=trail.settled and ("callback" if trail.settled == trail.called_back else "lookup"),
        confirmed_at=_at(trail.confirmed),
        confirmed_fields=frozenset(name for rank, name in trail.sayings if rank == "confirmed"),
        last_reported_at=_at(trail.newest),
        report_count=trail.count,
        conflict=any(_in_conflict(trail, name) for name in CONFIRMABLE),
        **told,
    )


def _believed(trail: Trail, name: str, until: Order | None = None) -> Any:
    """What the call had up to a place in the order; ``until`` is None (now) or not before the last final lookup."""
    if confirmed := trail.sayings.get(("confirmed", name)):
        return confirmed.value
    if (final := trail.sayings.get(("final", name))) and (value := final.last(until)) is not None:
        return value
    progress = trail.sayings.get(("progress", name))
    return progress and progress.last(trail.settled)


def _in_conflict(trail: Trail, name: str) -> bool:
    final = trail.sayings.get(("final", name))
    since = trail.confirmed or trail.settled
    if not (final and since and since < final.newest):
        return False
    if final.other and since < final.other:
        return True
    known = _believed(trail, name, since)
    return known is not None and known != final.value


def _at(order: Order | None) -> datetime | None:
    return order and order[0]
