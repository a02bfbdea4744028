"""The audit: asks eSMS about settled calls, and tells where the store says something else.

eSMS signs no callback, so only its own answer shows that what is stored is true. Unless it is to put calls right, an
audit writes nothing but the pace that it shares with all reconcile runs.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from webapp.calls.report import Effect
from webapp.esms.lookup import LOOKUP_FIELDS
from webapp.reconcile.dispatcher import Dispatcher, Ending
from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from threading import Event

    from webapp.calls.report import StatusReport
    from webapp.calls.rule import Call
    from webapp.esms.client import Client
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.filters import CallFilter
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

CONFIDENCE = 0.95
NAMED_FAILURES = 20
"""So many calls are named for each way in which look-ups failed."""

_AT_ONCE = 1000
_BISECTIONS = 60

CutShort = Literal[Ending, "interrupted", "database"]
Sample = int | Fraction
"""So many calls, or that share of them."""


# Pure: what an answer proves, which calls are drawn, what a sample says about the rest


@dataclass(frozen=True, slots=True)
class Verdict:
    """What eSMS's answer proves about a settled call: the fields that both say, and in which of them they differ."""

    compared: tuple[str, ...]
    differing: tuple[str, ...]
    final: bool

    @property
    def kind(self) -> Literal["agree", "disagree", "undecided"]:
        """An answer that is final and differs nowhere agrees, however little it says."""
        if self.differing:
            return "disagree"
        return "agree" if self.final else "undecided"


def compare(call: Call, report: StatusReport) -> Verdict:
    """What a look-up says about a settled call. What either leaves unsaid is not compared.

    Where the look-up is not final eSMS contradicts that the call is over: send_status differs, whatever it is, and what
    else such an answer says is not the call's outcome.
    """
    names = LOOKUP_FIELDS if report.final else ("send_status",)
    both = tuple(name for name in names if None not in (getattr(call, name), getattr(report, name)))
    differing = tuple(name for name in both if not report.final or getattr(call, name) != getattr(report, name))
    return Verdict(both, differing, report.final)


def size_of(sample: Sample, population: int) -> int:
    """How many calls a sample has: a share is rounded up; never more than there are."""
    return min(population, math.ceil(sample * population) if isinstance(sample, Fraction) else sample)


def draw(reference_ids: Iterable[str], size: int, seed: int) -> list[str]:
    """So many of the calls, each as likely as any other; the same seed draws the same. Keeps no more than these.

    They come in random order too: the first of them are a sample as well.
    """
    key = str(seed).encode()
    return heapq.nsmallest(
        size, reference_ids, key=lambda name: blake2b(name.encode(), key=key, digest_size=16).digest()
    )


def upper_bound(wrong: int, checked: int) -> float:
    """The share of wrong calls that is exceeded with 5 % probability at most, so many of a random sample being wrong.

    Clopper and Pearson's, one-sided: with a larger share, so few wrong ones would be rarer than that. Where none is
    wrong it is 1 - 0.05 ** (1 / checked).
    """
    if wrong >= checked:
        return 1.0
    low, high = wrong / checked, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _chance_of_at_most(wrong, checked, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _chance_of_at_most(wrong: int, checked: int, share: float) -> float:
    """The binomial distribution, for a share above ``wrong / checked``: there its terms fall toward 0 wrong ones."""
    if share >= 1:
        return 0.0
    ways = math.lgamma(checked + 1) - math.lgamma(wrong + 1) - math.lgamma(checked - wrong + 1)
    term = math.exp(ways + (wrong * math.log(share) if wrong else 0.0) + (checked - wrong) * math.log1p(-share))
    chance = term
    for number in range(wrong, 0, -1):
        term *= number / (checked - number + 1) * (1 - share) / share
        if chance + term == chance:
            break
        chance += term
    return chance


# What was found


@dataclass(slots=True)
class Disagreement:
    """A call about which the store and eSMS say different things, field by field.

    Once the answer was folded in: ``effect`` is what that did, ``put_right`` whether the store says now what eSMS says.
    """

    reference_id: str
    stored: dict[str, Any]
    esms: dict[str, Any]
    final: bool
    effect: Effect | None = None
    put_right: bool = False


@dataclass(slots=True)
class Audit:
    """What an audit has found so far; given to whoever watches.

    ``population`` counts the settled calls in its range, ``wanted`` those of them that are to be asked about. Undecided
    calls were asked about in vain: eSMS says neither an end nor a SendStatus, or the call changed meanwhile, twice.
    """

    population: int = 0
    wanted: int = 0
    seed: int | None = None
    drawn_from: int = 0
    agree: int = 0
    disagreeing: list[Disagreement] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    failed_calls: list[tuple[str, str]] = field(default_factory=list)
    cut_short: CutShort | None = None
    refused_code: str | None = None
    unheard: Counter[str] = field(default_factory=Counter)
    slowed: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many look-ups failed."""
        return self.failures.total()

    @property
    def checked(self) -> int:
        """About how many calls eSMS said whether they are right."""
        return self.agree + len(self.disagreeing)

    @property
    def asked(self) -> int:
        """About how many calls eSMS was asked."""
        return self.checked + len(self.unknown) + len(self.undecided) + self.failed

    @property
    def unasked(self) -> int:
        """About how many it was to be asked, and was not."""
        return self.wanted - self.asked

    @property
    def sampled(self) -> bool:
        """Whether the calls asked about are some of many, drawn at random; be it that a sample was cut short."""
        return self.seed is not None and self.asked < self.population

    @property
    def bound(self) -> float | None:
        """At most so large is the share of calls that disagree, at 95 % confidence, among all that eSMS knows.

        None where nothing is to be estimated, for every call was asked about; or where nothing can be.
        """
        return upper_bound(len(self.disagreeing), self.checked) if self.sampled and self.checked else None

    @property
    def clean(self) -> bool:
        """Whether all was asked, eSMS knows every call, and none disagrees."""
        return self.agree == self.wanted


class Auditor:
    """One audit. What it found stands in ``audit`` also when it was broken off."""

    def __init__(
        self, writer: Writer, reader: Reader, client: Client, settings: Settings, fix_at: Callable[[], datetime] | None
    ) -> None:
        """Prepare; nothing is asked yet. ``fix_at`` is the clock, if calls are to be put right."""
        self._writer = writer
        self._reader = reader
        self._client = client
        self._settings = settings
        self._fix_at = fix_at
        self._left: Iterator[str] = iter(())
        self._all_handed_in = False
        self._handed_in = 0
        self._again: list[str] = []
        self._reports_before: dict[str, int] = {}
        self._changed: set[str] = set()
        self.audit = Audit()

    def run(
        self, wanted: CallFilter, sample: Sample | None, seed: int, *, stop: Event, watch: Callable[[Audit], None]
    ) -> Audit:
        """Ask about every call that is wanted, or a sample of them; ``stop`` lets it finish what is in flight and end.

        Raises ``database.Unavailable``.
        """
        begun_at, audit = time.monotonic(), self.audit
        try:
            audit.population = audit.wanted = self._reader.settled_count(wanted)
            if sample is None:
                self._left = self._pages(wanted)
            else:
                audit.seed, audit.wanted = seed, size_of(sample, audit.population)
                self._left = iter(draw(self._stream(wanted, stop, watch), audit.wanted, seed))
            with Dispatcher(self._client, self._writer, self._settings) as dispatcher:
                self._work(dispatcher, stop, watch)
        except Unavailable:
            audit.cut_short = "database"
            raise
        finally:
            audit.seconds = time.monotonic() - begun_at
        return audit

    def _stream(self, wanted: CallFilter, stop: Event, watch: Callable[[Audit], None]) -> Iterator[str]:
        """All calls, to draw from; no longer than until it is to stop."""
        for reference_id in self._reader.settled(wanted):
            self.audit.drawn_from += 1
            if self.audit.drawn_from % _AT_ONCE == 0:
                watch(self.audit)
                if stop.is_set():
                    return
            yield reference_id

    def _pages(self, wanted: CallFilter) -> Iterator[str]:
        """All calls, some at a time: it may take days to ask about them, and no transaction may last so long."""
        last = ""
        while page := self._reader.settled_after(wanted, last, _AT_ONCE):
            yield from page
            last = page[-1]

    def _work(self, dispatcher: Dispatcher, stop: Event, watch: Callable[[Audit], None]) -> None:
        audit = self.audit
        while not (dispatcher.idle and (self._is_through or dispatcher.ended or stop.is_set())):
            if stop.is_set():
                dispatcher.close()
            elif not dispatcher.ended:
                self._hand_in(dispatcher)
            self._conclude(dispatcher.answers())
            audit.slowed = dispatcher.slowed
            watch(audit)
        audit.refused_code, audit.unheard = dispatcher.refused_code, dispatcher.unheard
        self._conclude(dispatcher.failures())
        if self._is_through and not dispatcher.ended:
            self._count_in(self._handed_in)
        audit.cut_short = dispatcher.ended or ("interrupted" if audit.unasked else None)

    def _count_in(self, wanted: int) -> None:
        """So many calls are to be asked about; without a sample, those that are settled meanwhile as well."""
        self.audit.wanted = wanted
        if self.audit.seed is None:
            self.audit.population = wanted

    @property
    def _is_through(self) -> bool:
        return self._all_handed_in and not self._again

    def _hand_in(self, dispatcher: Dispatcher) -> None:
        """Hand calls in as far as there is room, and remember what each has heard by now."""
        if not (capacity := dispatcher.capacity):
            return
        again, self._again = self._again[:capacity], self._again[capacity:]
        fresh = list(islice(self._left, capacity - len(again)))
        self._handed_in += len(fresh)
        self._all_handed_in = len(again) + len(fresh) < capacity
        self._count_in(max(self._handed_in, self.audit.wanted))
        if names := again + fresh:
            known = self._reader.calls_by_id(names)
            self._reports_before.update({name: call.report_count for name, call in known.items()})
            dispatcher.ask(names, until=float("inf"))

    def _conclude(self, answers: list[LookupAnswer]) -> None:
        """Judge the answers, each by what the store says of its call now."""
        if not answers:
            return
        known = self._reader.calls_by_id([answer.reference_id for answer in answers])
        reports, disagreeing = [], []
        for answer in answers:
            call = known.get(answer.reference_id)
            before = self._reports_before.pop(answer.reference_id, None)
            if answer.kind == "failed":
                self._note_failure(answer)
            elif call is None or not call.settled or call.report_count != before:
                self._note_change(answer)
            elif answer.report is None:
                self.audit.unknown.append(answer.reference_id)
            else:
                reports.append(answer.report)
                if differing := self._judge(call, answer.report):
                    disagreeing.append(differing)
        self.audit.disagreeing += disagreeing
        if self._fix_at and reports:
            self._fold_in(reports, disagreeing, self._fix_at())

    def _note_failure(self, answer: LookupAnswer) -> None:
        self.audit.failures[answer.code] += 1
        if self.audit.failures[answer.code] <= NAMED_FAILURES:
            self.audit.failed_calls.append((answer.reference_id, answer.code))

    def _note_change(self, answer: LookupAnswer) -> None:
        """A report came while eSMS was asked, which may know it or not: ask once more, then leave it undecided."""
        if answer.reference_id in self._changed:
            self._changed.remove(answer.reference_id)
            self.audit.undecided.append(answer.reference_id)
        else:
            self._changed.add(answer.reference_id)
            self._again.append(answer.reference_id)

    def _judge(self, call: Call, report: StatusReport) -> Disagreement | None:
        verdict = compare(call, report)
        self.audit.compared.update(verdict.compared)
        if verdict.kind == "disagree":
            stored, said = ({name: getattr(of, name) for name in verdict.differing} for of in (call, report))
            return Disagreement(call.reference_id, stored, said, final=report.final)
        if verdict.kind == "agree":
            self.audit.agree += 1
        else:
            self.audit.undecided.append(call.reference_id)
        return None

    def _fold_in(self, reports: list[StatusReport], disagreeing: list[Disagreement], now: datetime) -> None:
        """Let the rule decide on what eSMS said, and see what came of it."""
        effects = self._writer.record(reports, now)
        of_call = {report.reference_id: (report, effect) for report, effect in zip(reports, effects, strict=True)}
        after = self._reader.calls_by_id([one.reference_id for one in disagreeing])
        for one in disagreeing:
            report, one.effect = of_call[one.reference_id]
            one.put_right = not compare(after[one.reference_id], report).differing
