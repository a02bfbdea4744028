"""The rule: what one more status report, registration or look-up makes of a call.

Pure functions over frozen values. Knows no clock, no database, no Flask, and none of eSMS's spellings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

from webapp.calls.report import CONFIRMABLE, FIELDS, Effect, Said, Source, StatusReport

if TYPE_CHECKING:
    from collections.abc import Iterable

REGISTRABLE = ("request_id", "phone", "placed_at")
"""The fields in which a registration outranks every report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is known of a call from the side that placed it. None replaces nothing."""

    reference_id: str
    request_id: str | None = None
    phone: str | None = None
    campaign: str | None = None
    placed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Said):
    """All that is known of one call; the names are the columns of ``calls``."""

    reference_id: str
    placed_at: datetime
    campaign: str | None = None
    registered_at: datetime | None = None
    registered_fields: frozenset[str] = frozenset()
    callback_at: datetime | None = None
    settled_at: datetime | None = None
    settled_by: Source | None = None
    confirmed_at: datetime | None = None
    confirmed_fields: frozenset[str] = frozenset()
    last_reported_at: datetime | None = None
    report_count: int = 0
    conflict: bool = False
    next_lookup_at: datetime | None = None
    lookup_count: int = 0
    lookup_backoff: int = 0
    last_lookup_code: str | None = None
    gave_up_at: datetime | None = None

    @property
    def settled(self) -> bool:
        """Whether a final report is among its reports."""
        return self.settled_at is not None


def fold(call: Call, report: StatusReport) -> Call:
    """The call after one more report, which must be newer than all of its reports."""
    changes: dict[str, Any] = {"report_count": call.report_count + 1, "last_reported_at": report.received_at}
    if "placed_at" not in call.registered_fields:
        changes["placed_at"] = min(call.placed_at, report.received_at)
    if report.final:
        changes |= _believed(call, report) | _settled(call, report)
    elif not call.settled:
        changes |= _believed(call, report)
    return replace(call, **changes)


def _believed(call: Call, report: StatusReport) -> dict[str, Any]:
    outranked = call.registered_fields
    if report.source == "callback":
        outranked |= call.confirmed_fields
    return {name: value for name, value in report.said().items() if name not in outranked}


def _settled(call: Call, report: StatusReport) -> dict[str, Any]:
    settled = {
        "settled_at": call.settled_at or report.received_at,
        "settled_by": call.settled_by or report.source,
    }
    if report.source == "lookup":
        return settled | {
            "confirmed_at": report.received_at,
            "confirmed_fields": call.confirmed_fields | report.said().keys() & set(CONFIRMABLE),
            "conflict": False,
        }
    return settled | {
        "callback_at": call.callback_at or report.received_at,
        "conflict": call.conflict or disagrees(call, report),
    }


def disagrees(call: Call, report: StatusReport) -> bool:
    """Whether a settled call has another outcome than a final callback says (what either leaves unsaid agrees)."""
    if not (call.settled and report.final and report.source == "callback"):
        return False
    return _differ(call, report)


def _differ(one: Call, other: Call | StatusReport) -> bool:
    """Whether both say another CallStatus, CallDuration or Ivr."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in CONFIRMABLE]
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def can_follow(call: Call, report: StatusReport) -> bool:
    """Whether the report is newer than all of the call's reports, so that the call alone can be folded with it."""
    return call.last_reported_at is None or report.received_at > call.last_reported_at


def fold_all(call: Call, reports: Iterable[StatusReport]) -> Call:
    """The call as the set of its reports makes it, in whatever order they are given and however often.

    Of ``call`` itself only what was registered and the look-up columns count.
    """
    history = sorted({report.id: report for report in reports}.values(), key=lambda report: report.order)
    return reduce(fold, history, _without_reports(call, history))


def _without_reports(call: Call, history: list[StatusReport]) -> Call:
    placed_at = call.placed_at
    if "placed_at" not in call.registered_fields:
        placed_at = call.registered_at or (history[0].received_at if history else placed_at)
    return Call(
        reference_id=call.reference_id,
        placed_at=placed_at,
        request_id=call.request_id if "request_id" in call.registered_fields else None,
        phone=call.phone if "phone" in call.registered_fields else None,
        campaign=call.campaign,
        registered_at=call.registered_at,
        registered_fields=call.registered_fields,
        next_lookup_at=call.next_lookup_at,
        lookup_count=call.lookup_count,
        lookup_backoff=call.lookup_backoff,
        last_lookup_code=call.last_lookup_code,
        gave_up_at=call.gave_up_at,
    )


def effect(before: Call, report: StatusReport, after: Call) -> Effect:  # noqa: PLR0911 - a list of eight
    """What storing the report did: the first that fits."""
    changed = _changed(before, after)
    if after.settled and not before.settled:
        return "settled"
    if before.settled and not report.final and not changed:
        return "stale"
    if disagrees(before, report):
        return "conflict"
    if before.settled and report.final and report.source == "lookup":
        return "corrected" if _differ(before, after) else "confirmed"
    if before.settled and changed:
        return "enriched"
    if not before.settled and (changed or before.report_count == 0):
        return "progressed"
    return "duplicate"


def _changed(before: Call, after: Call) -> bool:
    names = (*FIELDS, "settled_by", "conflict")
    return (before.callback_at is None) != (after.callback_at is None) or any(
        getattr(before, name) != getattr(after, name) for name in names
    )


def register(call: Call, registration: Registration, now: datetime) -> Call:
    """The call once it was registered: newer values replace older ones, and outrank what reports say."""
    values = {name: value for name in REGISTRABLE if (value := getattr(registration, name)) is not None}
    registered_at = call.registered_at or now
    registered_fields = call.registered_fields.union(values)
    if "placed_at" not in registered_fields:
        values["placed_at"] = min(call.placed_at, registered_at)
    return replace(
        call,
        registered_at=registered_at,
        registered_fields=registered_fields,
        campaign=registration.campaign or call.campaign,
        **values,
    )
