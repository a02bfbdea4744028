"""What an audit finds: how eSMS's answer compares with a stored call, and the counts of all answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from webapp.calls.outcome import outcome
from webapp.calls.report import Effect
from webapp.esms.finality import SEND_STATUS_REJECTED
from webapp.esms.lookup import LOOKUP_FIELDS
from webapp.reconcile.clock import Clocks
from webapp.reconcile.dispatcher import Ending
from webapp.reconcile.failures import Failures
from webapp.reconcile.sampling import upper_bound

if TYPE_CHECKING:
    from webapp.calls.report import StatusReport
    from webapp.calls.rule import Call

CutShort = Literal[Ending, "interrupted", "database"]
"""Why an audit ended before it had asked about every call."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What eSMS's answer proves about a settled call: the fields that both say, and in which of them they differ.

    ``more`` are the fields that only eSMS says.
    """

    compared: tuple[str, ...]
    differing: tuple[str, ...]
    final: bool
    more: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["agree", "disagree", "undecided"]:
        """An answer that is final and differs nowhere agrees, however little it says."""
        if self.differing:
            return "disagree"
        return "agree" if self.final else "undecided"


def compare(call: Call, report: StatusReport) -> Verdict:
    """What a look-up says about a settled call. What eSMS leaves unsaid is not compared.

    A field that only eSMS says makes a difference if the call's outcome, in one word, would be another one with it.

    If the look-up is not final, eSMS contradicts that the call is over: then send_status differs, whatever it is, and
    nothing else is compared, for it is not the call's outcome.
    """
    names = LOOKUP_FIELDS if report.final else ("send_status",)
    both = tuple(name for name in names if None not in (getattr(call, name), getattr(report, name)))
    differing = tuple(name for name in both if not report.final or getattr(call, name) != getattr(report, name))
    if not report.final:
        return Verdict(both, differing, final=False)
    more = {name: said for name in names if getattr(call, name) is None and (said := getattr(report, name)) is not None}
    if outcome(replace(call, **more), SEND_STATUS_REJECTED) != outcome(call, SEND_STATUS_REJECTED):
        differing += tuple(more)
    return Verdict(both, differing, final=True, more=tuple(more))


@dataclass(slots=True)
class Disagreement:
    """A call about which the store and eSMS say different things, field by field.

    If the answer was stored: ``effect`` is what that did, ``put_right`` whether the store says now what eSMS says.
    """

    reference_id: str
    stored: dict[str, Any]
    esms: dict[str, Any]
    final: bool
    effect: Effect | None = None
    put_right: bool = False


@dataclass(slots=True)
class Audit:
    """What an audit has found so far.

    ``population`` counts the settled calls in its range, ``wanted`` those of them that are to be asked about. Undecided
    calls: eSMS says neither an end nor a SendStatus, or the call changed while eSMS was asked, twice.
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
    more: Counter[str] = field(default_factory=Counter)
    """How often eSMS says a field that the store does not have."""
    failures: Failures = field(default_factory=Failures)
    cut_short: CutShort | None = None
    refused_code: str | None = None
    unanswered: Counter[str] = field(default_factory=Counter)
    slowed_down: int = 0
    clocks: Clocks = field(default_factory=Clocks)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many look-ups failed."""
        return self.failures.counts.total()

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
        """About how many calls eSMS was to be asked, and was not."""
        return self.wanted - self.asked

    @property
    def sampled(self) -> bool:
        """Whether the calls asked about are a random sample of the population; one that was cut short is smaller."""
        return self.seed is not None and self.asked < self.population

    @property
    def bound(self) -> float | None:
        """The largest share of calls that disagree, at 95 % confidence, among all calls that eSMS knows.

        None if every call was asked about, so that nothing is estimated, or if no answer said anything.
        """
        return upper_bound(len(self.disagreeing), self.checked) if self.sampled and self.checked else None

    @property
    def all_agree(self) -> bool:
        """Whether every call was asked about, eSMS knows all of them, and none disagrees."""
        return self.agree == self.wanted

    def note_verdict(self, call: Call, report: StatusReport) -> Disagreement | None:
        """Compare eSMS's answer with a settled call, and count the result; the disagreement, if there is one."""
        verdict = compare(call, report)
        self.compared.update(verdict.compared)
        self.more.update(verdict.more)
        if verdict.kind == "disagree":
            stored, said = ({name: getattr(of, name) for name in verdict.differing} for of in (call, report))
            disagreement = Disagreement(call.reference_id, stored, said, final=report.final)
            self.disagreeing.append(disagreement)
            return disagreement
        if verdict.kind == "agree":
            self.agree += 1
        else:
            self.undecided.append(call.reference_id)
        return None
