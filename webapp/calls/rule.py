"""The rule: what one more status report, registration or look-up makes of a call.

Pure functions over frozen values. Knows no clock, no database, no Flask, and none of eSMS's spellings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from itertools import takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from webapp.calls.report import FIELDS, FIRST_SAID, OUTCOME_FIELDS, Effect, Kind, Said, Source, StatusReport

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

REGISTRABLE = ("request_id", "phone", "placed_at", "kind", "esms_id")
"""The fields in which a registration outranks every report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is known of a call from the side that placed it. None replaces nothing."""

    reference_id: str
    request_id: str | None = None
    phone: str | None = None
    campaign: str | None = None
    placed_at: datetime | None = None
    kind: Kind | None = None
    esms_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Call(Said):
    """All that is known of one call; the names are the columns of ``calls``."""

    reference_id: str
    placed_at: datetime
    campaign: str | None = None
    kind: Kind | None = None
    esms_id: str | None = None
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
    price_conflict: bool = False
    next_lookup_at: datetime | None = None
    lookup_count: int = 0
    lookup_backoff: int = 0
    last_lookup_code: str | None = None
    gave_up_at: datetime | None = None
    dismissed_at: datetime | None = None

    @property
    def settled(self) -> bool:
        """Whether a final report is among its reports."""
        return self.settled_at is not None


def fold(call: Call, report: StatusReport) -> Call:
    """The call after one more report that the row can decide on; see ``row_decides``."""
    changes: dict[str, Any] = {
        "report_count": call.report_count + 1,
        "last_reported_at": report.received_at,
        "kind": call.kind or report.kind,
        "esms_id": call.esms_id or report.esms_id,
    }
    if "placed_at" not in call.registered_fields:
        changes["placed_at"] = min(call.placed_at, report.received_at)
    if report.final:
        changes |= _believed(call, report) | _settled(call, report)
    elif not call.settled:
        changes |= _believed(call, report)
    # What ``dataclasses.replace`` does, in a tenth of its time: every callback is folded.
    folded = object.__new__(Call)
    folded.__dict__.update(call.__dict__)
    folded.__dict__.update(changes)
    return folded


def _believed(call: Call, report: StatusReport) -> dict[str, Any]:
    outranked = call.registered_fields
    if report.source == "callback":
        outranked |= call.confirmed_fields
        if call.settled:
            outranked |= {name for name in FIRST_SAID if getattr(call, name) is not None}
    return {name: value for name, value in report.said().items() if name not in outranked}


def _settled(call: Call, report: StatusReport) -> dict[str, Any]:
    settled = {
        "settled_at": call.settled_at or report.received_at,
        "settled_by": call.settled_by or report.source,
    }
    if report.source == "lookup":
        return settled | {
            "confirmed_at": report.received_at,
            "confirmed_fields": call.confirmed_fields | report.said().keys() & set(OUTCOME_FIELDS),
            "conflict": False,
            "price_conflict": call.price_conflict and report.price is None,
        }
    return settled | {
        "callback_at": call.callback_at or report.received_at,
        "conflict": call.conflict or disagrees(call, report),
    }


def disagrees(call: Call, report: StatusReport) -> bool:
    """Whether a settled call has another outcome than a final callback says (what either leaves unsaid agrees)."""
    if not (call.settled and report.final and report.source == "callback"):
        return False
    return _differ(call, report, OUTCOME_FIELDS)


def _differ(one: Said, other: Said, names: tuple[str, ...]) -> bool:
    """Whether both say one of these fields, and not the same."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def row_decides(call: Call, report: StatusReport) -> bool:
    """Whether the call as it is and the report give what the whole history gives: else the history is folded.

    So it is where the report is newer than all others and contradicts nothing, and the call is not in conflict.
    """
    if call.last_reported_at is not None and report.received_at <= call.last_reported_at:
        return False
    if call.conflict:
        return False
    return not (call.settled and report.final and _differ(call, report, (*OUTCOME_FIELDS, *FIRST_SAID)))


def fold_all(call: Call, reports: Iterable[StatusReport]) -> Call:
    """The call as the set of its reports makes it, in whatever order they are given and however often.

    Of ``call`` itself only what was registered, the look-up columns and ``dismissed_at`` count.
    """
    history = sorted({report.id: report for report in reports}.values(), key=attrgetter("order"))
    folded = reduce(fold, history, _without_reports(call, history))
    return replace(folded, **_first_said(folded, history))


def _first_said(call: Call, history: list[StatusReport]) -> dict[str, Any]:
    """Price and CID: the first final callback that agrees with the outcome counts, unless a final lookup says them."""
    final = [report for report in history if report.final]
    callbacks = [report for report in final if report.source == "callback"]
    agreeing = [report for report in callbacks if not _differ(call, report, OUTCOME_FIELDS)]
    disagreeing = [report for report in callbacks if _differ(call, report, OUTCOME_FIELDS)]
    confirming = [report for report in final if report.source == "lookup"]
    progress = list(takewhile(lambda report: not report.final, history))
    in_order = (*reversed(confirming), *agreeing, *reversed(disagreeing), *reversed(progress))
    said = {
        name: next((value for report in in_order if (value := getattr(report, name)) is not None), None)
        for name in FIRST_SAID
    }
    prices: set[Decimal] = {report.price for report in agreeing if report.price is not None}
    confirmed = any(report.price is not None for report in confirming)
    return said | {"price_conflict": len(prices) > 1 and not confirmed}


def _without_reports(call: Call, history: list[StatusReport]) -> Call:
    registered = {name: getattr(call, name) for name in REGISTRABLE if name in call.registered_fields}
    if "placed_at" not in registered:
        first_seen = call.registered_at or (history[0].received_at if history else call.placed_at)
        registered["placed_at"] = first_seen
    return Call(
        reference_id=call.reference_id,
        campaign=call.campaign,
        registered_at=call.registered_at,
        registered_fields=call.registered_fields,
        next_lookup_at=call.next_lookup_at,
        lookup_count=call.lookup_count,
        lookup_backoff=call.lookup_backoff,
        last_lookup_code=call.last_lookup_code,
        gave_up_at=call.gave_up_at,
        dismissed_at=call.dismissed_at,
        **registered,
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
        return "corrected" if _differ(before, after, OUTCOME_FIELDS) else "confirmed"
    if before.settled and changed:
        return "enriched"
    if not before.settled and (changed or before.report_count == 0):
        return "progressed"
    return "duplicate"


def _changed(before: Call, after: Call) -> bool:
    names = (*FIELDS, "kind", "esms_id", "settled_by", "conflict", "price_conflict")
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
