"""The story of one call for people: what each report said, what was another value before, and who said what is known.

Pure functions on a call with its reports, as they are read and shown; page and terminal show the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from webapp.calls.report import FIRST_SAID

if TYPE_CHECKING:
    from collections.abc import Iterator

ValueSource = Literal["registered", "callback", "lookup"]
SAID = (
    *("call_status", "sent_result", "send_status", "call_duration", "ivr", "price", "cid", "phone"),
    "request_id",
)
"""What a report may say, in the order of the story."""
FACTS = (
    "outcome",
    "call_status",
    "call_duration",
    "ivr",
    "send_status",
    "sent_result",
    "price",
    "cid",
    "kind",
    "phone",
    "campaign",
    "request_id",
    "esms_id",
    "placed_at",
    "registered_at",
    "callback_at",
    "settled_at",
    "settled_by",
    "confirmed_at",
    "conflict",
    "price_conflict",
    "gave_up_at",
    "dismissed_at",
    "next_lookup_at",
    "lookup_count",
    "last_lookup_code",
)
"""What is known of a call, in the order in which people read it."""
EFFECTS_IN_WORDS = {
    "settled": "settled the call",
    "stale": "changed nothing: the call was settled already",
    "conflict": "disagreed with the settled call",
    "corrected": "corrected the call",
    "confirmed": "confirmed the call",
    "enriched": "added to the settled call",
    "progressed": "was progress",
    "duplicate": "said nothing new",
}
"""What a report did, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class SaidValue:
    """One value that a report says; ``before``: what was said before it, if that was something else and it changed."""

    name: str
    value: Any
    before: Any = None


@dataclass(frozen=True, slots=True)
class Step:
    """One report, or several alike in a row that said nothing new: the first of them is shown."""

    reports: Sequence[Mapping[str, Any]]
    said: tuple[SaidValue, ...]

    @property
    def report(self) -> Mapping[str, Any]:
        """The first, or only, one."""
        return self.reports[0]


@dataclass(frozen=True, slots=True)
class Fact:
    """One value that is known of a call, and its source; None: no registration or report says it."""

    name: str
    value: Any
    source: ValueSource | None


def facts(call: Mapping[str, Any]) -> Iterator[Fact]:
    """What is known of a call that has its ``reports``; without what is not, and what did not happen."""
    for name in FACTS:
        value = call[name]
        if value is not None and value is not False and (name, value) != ("lookup_count", 0):
            yield Fact(name, value, source_of(name, call))


def story(reports: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """The steps of a call whose reports these are, in their order."""
    known: dict[str, Any] = {}
    alike: list[Mapping[str, Any]] = []
    for report in reports:
        if alike and not _repeats(alike[-1], report):
            yield _next_step(alike, known)
            alike = []
        alike.append(report)
    if alike:
        yield _next_step(alike, known)


def _next_step(reports: list[Mapping[str, Any]], known: dict[str, Any]) -> Step:
    """The next step; what it says is ``known`` from then on, but for what changed nothing."""
    report = reports[0]
    said = {name: report[name] for name in SAID if report[name] is not None}
    replacing = {name: value for name, value in said.items() if name not in _unchanged_by(report)}
    values = [
        SaidValue(name, value, before if name in replacing and (before := known.get(name)) != value else None)
        for name, value in said.items()
    ]
    known |= {name: value for name, value in said.items() if name in replacing or name not in known}
    return Step(tuple(reports), tuple(values))


def _unchanged_by(report: Mapping[str, Any]) -> Collection[str]:
    """The fields whose known value stands, whatever this report says."""
    if report["effect"] == "stale":
        return SAID
    # The first word on these stands, and a callback that disagreed with the outcome has another effect.
    return FIRST_SAID if (report["effect"], report["source"]) == ("enriched", "callback") else ()


def _repeats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both said nothing new, and the same."""
    same = ("source", "effect", "lookup_code", "remote_addr", "unread", *SAID)
    return one["effect"] == "duplicate" and all(one[name] == other[name] for name in same)


def source_of(name: str, call: Mapping[str, Any]) -> ValueSource | None:
    """The source of a value of a call that has its ``reports``; None: no registration or report says it."""
    value = call[name]
    if value is None:
        return None
    if name in (call["registered_fields"] or "").split(",") or (
        name == "campaign" and call["registered_at"] is not None
    ):
        return "registered"
    if name not in SAID:
        return None
    sources = {report["source"] for report in call["reports"] if report[name] == value}
    return "lookup" if "lookup" in sources else "callback" if sources else None
