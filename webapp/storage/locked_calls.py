"""Some calls, locked in one transaction, and what reports, look-ups and registrations make of them until it commits."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import select

from webapp.calls import lookup_schedule, rule
from webapp.calls.facts import counted
from webapp.calls.outcome import outcome
from webapp.calls.phone import e164
from webapp.calls.report import FIELDS, StatusReport
from webapp.calls.rule import Call
from webapp.esms.finality import SEND_STATUS_REJECTED
from webapp.esms.stored import stored_report
from webapp.storage import bulk, rollups
from webapp.storage.columns import CALL_COLUMNS, REPORT_COLUMNS
from webapp.storage.errors import InsertedMeanwhile
from webapp.storage.models import calls, status_reports

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from sqlalchemy import Column, Select
    from sqlalchemy.engine import Connection

    from webapp.calls.report import Effect
    from webapp.esms.lookup import LookupAnswer

Conclusion = Literal["settled", "pending", "not_found", "failed", "gave_up"]
_CHANGING_COLUMNS = [column for column in CALL_COLUMNS if column is not calls.c.reference_id]


class Refolded(NamedTuple):
    """A call that differed from the fold of its history: in which columns, and its outcome before and after."""

    reference_id: str
    columns: tuple[str, ...]
    outcomes: tuple[str, str] | None


class LockedCalls:
    """Some calls, locked in one transaction, and what becomes of them until they are written.

    A call that is absent is inserted as its reports make it.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        """Read and lock nothing yet."""
        self._connection = connection
        self._now = now
        self._before: dict[str, Call] = {}
        self._absent: set[str] = set()
        self._history: dict[str, list[StatusReport]] = {}
        self._new: list[StatusReport] = []
        self._wrong_phones: set[str] = set()
        self.calls: dict[str, Call] = {}
        self.effects: dict[UUID, Effect] = {}

    def lock(self, first_seen: Mapping[str, datetime | None]) -> None:
        """Read and lock the calls, and begin those that are absent at the time given, if any is."""
        self.read(first_seen, lock=True)
        self.begin(first_seen)

    def begin(self, first_seen: Mapping[str, datetime | None]) -> None:
        """Begin the calls that are absent at the time given, if any is."""
        for reference_id, at in first_seen.items():
            if at is not None and reference_id not in self.calls:
                self._absent.add(reference_id)
                self.calls[reference_id] = Call(reference_id=reference_id, placed_at=at)

    def lock_or_insert(self, reference_ids: Collection[str]) -> None:
        """Read and lock the calls; those that are absent are inserted first.

        Their callbacks may come at this moment: with a thousand calls, a retry would find others inserted each time.
        """
        self.read(reference_ids, lock=True)
        if absent := sorted(set(reference_ids) - self.calls.keys()):
            new = (Call(reference_id=name, placed_at=self._now) for name in absent)
            bulk.insert_absent(self._connection, calls, [self._new_row(call) for call in new])
            self.read(reference_ids, lock=True)

    def _new_row(self, call: Call) -> dict[str, Any]:
        phone_e164 = e164(call.phone)
        return _call_values(call) | {"phone_e164": phone_e164, "created_at": self._now, "updated_at": self._now}

    def read(self, reference_ids: Collection[str], *, lock: bool = False) -> None:
        """Read the calls as they are."""
        query = (_calls_to_lock if lock else _calls_to_read)(self._connection.dialect.name)
        rows = self._connection.execute(query, bulk.values(self._connection, reference_ids))
        self._before = {row.reference_id: _call(row._mapping) for row in rows}  # noqa: SLF001
        self.calls = dict(self._before)

    def skip_stored(self, reports: Sequence[StatusReport]) -> None:
        """Read the effects of those reports that are stored already; ``fold`` skips them.

        A report is stored together with its call. So a call that is absent has none.
        """
        known = [report for report in reports if report.reference_id in self._before]
        if not known:
            return
        of_calls = bulk.values(self._connection, {report.reference_id for report in known})
        ids = bulk.values(self._connection, [report.id for report in known], "ids")
        rows = self._connection.execute(_effects(self._connection.dialect.name), of_calls | ids)
        self.effects = {row.id: row.effect for row in rows}

    def is_newest(self, report: StatusReport) -> bool:
        """Whether the report is newer than all of its call: then it is not stored already."""
        last_reported_at = self.calls[report.reference_id].last_reported_at
        return last_reported_at is None or report.received_at > last_reported_at

    def fold(self, report: StatusReport) -> None:
        """Fold one report, unless it is stored already; with the whole history, unless it is the newest."""
        if report.id in self.effects:
            return
        before = self.calls[report.reference_id]
        if rule.row_decides(before, report):
            after = rule.fold(before, report)
        else:
            after = rule.fold_all(before, [*self._reports_of(report.reference_id), report])
        if report.reference_id in self._history:
            self._history[report.reference_id].append(report)
        after = lookup_schedule.plan(before, after, self._now)
        if before.dismissed_at and self._is_news(before, report, after):
            after = replace(after, dismissed_at=None)
        self.calls[report.reference_id] = after
        self.effects[report.id] = rule.effect(before, report, after)
        self._new.append(report)

    def _is_news(self, before: Call, report: StatusReport, after: Call) -> bool:
        """Whether a call that a person has dismissed needs one again: a conflict, or another price."""
        if (after.conflict and not before.conflict) or (after.price_conflict and not before.price_conflict):
            return True
        if not (after.price_conflict and report.final and report.price is not None):
            return False
        earlier = (one for one in self._reports_of(report.reference_id) if one.id != report.id)
        return report.price not in {one.price for one in earlier if one.final}

    def conclude(self, answer: LookupAnswer, give_up: timedelta, *, verifying: bool) -> Conclusion:
        """Fold the answer of one look-up, charge it to its call, and give up a call that stays open for too long."""
        conclusion: Conclusion = "settled" if answer.kind == "final" else answer.kind
        before = self.calls.get(answer.reference_id)
        if before is None:  # It was unregistered while eSMS was asked, and eSMS says nothing of it.
            return conclusion
        if answer.report:
            self.fold(answer.report)
        spread = random.uniform(0.9, 1.1)  # noqa: S311
        folded = self.calls[answer.reference_id]
        after = lookup_schedule.charge(
            before, folded, answer.code, self._now, answered=answer.answered, spread=spread, verifying=verifying
        )
        still_open = not after.settled or after.conflict or verifying
        if still_open and answer.permits_giving_up and after.placed_at <= self._now - give_up:
            after = replace(lookup_schedule.give_up(after, self._now), dismissed_at=None)
        self.calls[answer.reference_id] = after
        if after.gave_up_at and not before.gave_up_at:
            return "gave_up"
        return conclusion

    def read_again(self, reports: Sequence[StatusReport]) -> None:
        """Give stored reports the values that their payload is read as now."""
        bulk.update(self._connection, status_reports, [_read_values(report) for report in reports], keys=2)

    def unregister(self) -> None:
        """Take back what was registered; calls without a report are left out: they are to be removed."""
        self.calls = {name: call for name, call in self.calls.items() if call.report_count}
        self._read_histories(self.calls)
        for name, call in self.calls.items():
            if not call.registered_at:
                continue
            bare = replace(call, registered_at=None, registered_fields=frozenset(), campaign=None)
            self.calls[name] = lookup_schedule.plan(call, rule.fold_all(bare, self._reports_of(name)), self._now)

    def refold(self) -> list[Refolded]:
        """Make every call the fold of its history; those that differed."""
        differing = []
        self._read_histories(self.calls)
        self._read_wrong_phones()
        for reference_id, before in self.calls.items():
            after = lookup_schedule.plan(before, rule.fold_all(before, self._reports_of(reference_id)), self._now)
            if after != before or reference_id in self._wrong_phones:
                of_phone = ("phone_e164",) if reference_id in self._wrong_phones else ()
                differing.append(_difference(before, after, of_phone))
                self.calls[reference_id] = after
        return differing

    def _read_wrong_phones(self) -> None:
        """Find the calls whose phone is not in its one form: older ones, and those that were inserted by SQL."""
        columns = select(calls.c.reference_id, calls.c.phone, calls.c.phone_e164)
        rows = self._connection.execute(
            columns.where(bulk.is_one_of(self._connection, calls.c.reference_id, self.calls))
        )
        self._wrong_phones = {row.reference_id for row in rows if row.phone_e164 != e164(row.phone)}

    def write(self, **columns: Any) -> None:
        """Write the reports that are new and the calls that changed; ``columns`` of those that changed, besides.

        Raises InsertedMeanwhile if another transaction has inserted one of them meanwhile.
        """
        absent = [self._new_row(self.calls[name]) for name in sorted(self._absent)]
        changed = [
            _changing_values(call)
            | {"phone_e164": e164(call.phone), "updated_at": self._now, **columns, "reference_id": name}
            for name, call in self.calls.items()
            if name not in self._absent and (call != self._before[name] or name in self._wrong_phones)
        ]
        new = [_report_values(report) | {"effect": self.effects[report.id]} for report in self._new]
        if absent and bulk.insert_absent(self._connection, calls, absent) < len(absent):
            raise InsertedMeanwhile("another transaction has inserted a call at the same moment")
        if changed:
            bulk.update(self._connection, calls, changed)
        if new and bulk.insert_absent(self._connection, status_reports, new) < len(new):
            raise InsertedMeanwhile("another transaction has inserted a report at the same moment")
        rollups.mark(self._connection, self._moments_to_mark(), self._now)

    def _moments_to_mark(self) -> set[datetime]:
        """When the calls were placed, before and after, of which the figures count something else now."""
        moments = set()
        for name, call in self.calls.items():
            before = self._before.get(name)
            if before is None:
                moments.add(call.placed_at)
            elif call is not before and counted(call) != counted(before):
                moments |= {before.placed_at, call.placed_at}
        return moments

    def _reports_of(self, reference_id: str) -> list[StatusReport]:
        if reference_id not in self._history:
            self._read_histories([reference_id])
            self._history[reference_id] += [report for report in self._new if report.reference_id == reference_id]
        return self._history[reference_id]

    def _read_histories(self, reference_ids: Collection[str]) -> None:
        self._history |= {name: [] for name in reference_ids}
        query = _histories(self._connection.dialect.name)
        for row in self._connection.execute(query, bulk.values(self._connection, reference_ids)):
            self._history[row.reference_id].append(stored_report(row._mapping))  # noqa: SLF001


# Statements are built once for each dialect: building costs several times what executing does.


@cache
def _calls_to_read(dialect: str) -> Select[Any]:
    return select(*CALL_COLUMNS).where(bulk.is_one_of_values(calls.c.reference_id, dialect))


@cache
def _calls_to_lock(dialect: str) -> Select[Any]:
    return _calls_to_read(dialect).order_by(calls.c.reference_id).with_for_update()


@cache
def _effects(dialect: str) -> Select[Any]:
    of_calls = bulk.is_one_of_values(status_reports.c.reference_id, dialect)
    these = bulk.is_one_of_values(status_reports.c.id, dialect, "ids")
    return select(status_reports.c.id, status_reports.c.effect).where(of_calls, these)


@cache
def _histories(dialect: str) -> Select[Any]:
    return select(*REPORT_COLUMNS).where(bulk.is_one_of_values(status_reports.c.reference_id, dialect))


def _call(row: Mapping[Any, Any]) -> Call:
    call = Call(**row)
    # A row that was inserted by SQL names every field as registered; those that it leaves empty were not.
    registered = {name for name in call.registered_fields if getattr(call, name) is not None}
    return replace(call, registered_fields=frozenset(registered))


class _Values:
    """Reads the values of some columns from a call or a report, as a row for ``bulk``."""

    def __init__(self, columns: list[Column[Any]]) -> None:
        self._names = [column.name for column in columns]
        self._get = attrgetter(*self._names)

    def __call__(self, of: Call | StatusReport) -> dict[str, Any]:
        return dict(zip(self._names, self._get(of), strict=True))


_call_values = _Values(CALL_COLUMNS)
_changing_values = _Values(_CHANGING_COLUMNS)
_report_values = _Values(REPORT_COLUMNS)
_READ_COLUMNS = [column for column in REPORT_COLUMNS if column.name in {*FIELDS, "unread"}]
_read_values = _Values([*_READ_COLUMNS, status_reports.c.reference_id, status_reports.c.id])


def _difference(before: Call, after: Call, besides: tuple[str, ...]) -> Refolded:
    differ = tuple(field.name for field in fields(Call) if getattr(before, field.name) != getattr(after, field.name))
    outcomes = outcome(before, SEND_STATUS_REJECTED), outcome(after, SEND_STATUS_REJECTED)
    return Refolded(after.reference_id, differ + besides, outcomes if outcomes[0] != outcomes[1] else None)
