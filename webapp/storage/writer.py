"""Writes reports, registrations and look-ups into calls and their history.

Every function locks its calls, folds, and writes, always in the order of the reference ids, so that concurrent writers
neither lose a change nor lock each other out. What a report means is decided by ``calls.rule``.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, fields, replace
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import delete, func, select

from webapp.calls import lookup_schedule, rule
from webapp.calls.facts import counted
from webapp.calls.outcome import outcome
from webapp.calls.phone import e164
from webapp.calls.report import FIELDS, StatusReport
from webapp.calls.rule import Call, Registration
from webapp.esms.finality import SEND_STATUS_REJECTED
from webapp.esms.hide_phones import hide_in_registration, hide_in_report
from webapp.esms.stored import other_channel_of, stored_report
from webapp.storage import bulk, dismissals, rejected, rollups
from webapp.storage.columns import CALL_COLUMNS, REPORT_COLUMNS
from webapp.storage.errors import TransactionLost
from webapp.storage.models import calls, due_replay, status_reports
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from sqlalchemy import Column, Select
    from sqlalchemy.engine import Connection

    from webapp.calls.report import Effect
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter
    from webapp.storage.rejected import Rejected


@dataclass(frozen=True, slots=True)
class Registered:
    """Numbers of registrations: of new calls, of calls registered before, and of those that a new value changed."""

    new: int = 0
    already_known: int = 0
    changed: int = 0

    def __add__(self, other: Registered) -> Registered:
        """Both together."""
        return Registered(self.new + other.new, self.already_known + other.already_known, self.changed + other.changed)


class Unregistered(NamedTuple):
    """Calls that were removed, calls that lost what was registered, and the ids that are not stored."""

    removed: int
    cleared: int
    unknown: list[str]


class Refolded(NamedTuple):
    """A call that differed from the fold of its history: in which columns, and its outcome before and after."""

    reference_id: str
    columns: tuple[str, ...]
    outcomes: tuple[str, str] | None


class Expected(NamedTuple):
    """What is expected of a batch of reports: it saves a SELECT, and the INSERT shows whether it was so."""

    calls_absent: bool = False
    reports_new: bool = False


NOTHING_EXPECTED = Expected()


class Recorded(NamedTuple):
    """The effects of reports, in the order given, and whether none of their calls was stored before."""

    effects: list[Effect]
    all_absent: bool


Conclusion = Literal["settled", "pending", "not_found", "failed", "gave_up"]

_PORTION = 1000
_REGISTERED_AT_ONCE = 100
"""Registrations of one transaction: callbacks wait for its locks, on SQLite all of them."""
_LONGEST_PAUSE_SECONDS = 0.1
"""On SQLite, writers try the lock now and then: without a pause the next transaction would always take it first."""
_CHANGING_COLUMNS = [column for column in CALL_COLUMNS if column is not calls.c.reference_id]


def record(
    connection: Connection, reports: Sequence[StatusReport], now: datetime, expected: Expected = NOTHING_EXPECTED
) -> Recorded:
    """Store reports and what they make of their calls.

    A report whose id is stored already does nothing, and has the effect that it had then. Raises TransactionLost if
    another transaction inserted one of the calls or reports at the same moment, or if it is not as ``expected``.
    """
    locked = _LockedCalls(connection, now)
    first_seen = _first_received(reports)
    if not expected.calls_absent:
        locked.read(first_seen, lock=True)
    all_absent = not locked.calls
    locked.begin(first_seen)
    if not expected.reports_new:
        locked.skip_stored(reports)
    for report in sorted(reports, key=lambda report: report.order):
        locked.fold(report)
    locked.write()
    return Recorded([locked.effects[report.id] for report in reports], all_absent)


def registered(connection: Connection, reference_ids: Collection[str]) -> set[str]:
    """Those of the ids that were registered."""
    of_these = bulk.is_one_of(connection, calls.c.reference_id, reference_ids)
    query = select(calls.c.reference_id).where(of_these, calls.c.registered_at.is_not(None))
    return set(connection.scalars(query))


class Writer:
    """Writes to one database, one transaction a method. Every method raises ``errors.Unavailable``, nothing written."""

    def __init__(self, database: Database) -> None:
        """Write to ``database``."""
        self._database = database
        self._phones = database.phones
        self._rejected = rejected.RejectedCallbacks()

    @retrying
    def reject(self, one: Rejected) -> None:
        """Keep what could not be read; see ``rejected``."""
        with self._database.transaction() as connection:
            self._rejected.keep(connection, [rejected.hide_in_rejected(one, self._phones)])

    @retrying
    def record(self, reports: Sequence[StatusReport], now: datetime) -> list[Effect]:
        """Store reports durably; see the function of the same name."""
        with self._database.transaction() as connection:
            return record(connection, self._hidden(reports), now).effects

    def _hidden(self, reports: Iterable[StatusReport]) -> list[StatusReport]:
        return [hide_in_report(report, self._phones) for report in reports]

    def register(self, registrations: Sequence[Registration], now: datetime) -> Registered:
        """Register calls, in several transactions; a call with several registrations counts once for each."""
        registrations = [hide_in_registration(one, self._phones) for one in registrations]
        done = Registered()
        began = time.monotonic()
        for start in range(0, len(registrations), _REGISTERED_AT_ONCE):
            if start and self._database.is_sqlite:
                time.sleep(min(time.monotonic() - began, _LONGEST_PAUSE_SECONDS))
            began = time.monotonic()
            done += self._register_some(registrations[start : start + _REGISTERED_AT_ONCE], now)
        return done

    @retrying
    def _register_some(self, registrations: Sequence[Registration], now: datetime) -> Registered:
        with self._database.transaction() as connection:
            locked = _LockedCalls(connection, now)
            locked.lock_or_insert([registration.reference_id for registration in registrations])
            done = _register_calls(locked.calls, registrations, now)
            locked.write()
        return done

    def would_register(
        self, registrations: Sequence[Registration], now: datetime, *, checked: Collection[str] = ()
    ) -> Registered:
        """What ``register`` would do; the calls in ``checked`` would be registered by then."""
        registrations = [hide_in_registration(one, self._phones) for one in registrations]
        names = {registration.reference_id for registration in registrations}
        with self._database.snapshot() as connection:
            found = _LockedCalls(connection, now)
            found.read(names)
        unregistered = {name for name in names if name not in found.calls or not found.calls[name].registered_at}
        absent = {name: Call(reference_id=name, placed_at=now) for name in names - found.calls.keys()}
        done = _register_calls(found.calls | absent, registrations, now)
        again = len(unregistered.intersection(checked))
        return Registered(done.new - again, done.already_known + again, done.changed)

    @retrying
    def unregister(self, reference_ids: Sequence[str], now: datetime) -> Unregistered:
        """Take back what was registered of these calls; remove those without a report."""
        with self._database.transaction() as connection:
            locked = _LockedCalls(connection, now)
            locked.read(reference_ids, lock=True)
            unknown = [one for one in reference_ids if one not in locked.calls]
            removed = [name for name, call in locked.calls.items() if not call.report_count]
            cleared = sum(bool(call.report_count and call.registered_at) for call in locked.calls.values())
            rollups.mark(connection, (locked.calls[name].placed_at for name in removed), now)
            locked.unregister()
            locked.write()
            if removed:
                connection.execute(delete(calls).where(bulk.is_one_of(connection, calls.c.reference_id, removed)))
        return Unregistered(len(removed), cleared, unknown)

    @retrying
    def dismiss(self, reference_ids: Sequence[str], now: datetime, *, undo: bool = False) -> set[str]:
        """Note that a person has seen to calls; see ``dismissals``."""
        with self._database.transaction() as connection:
            return dismissals.dismiss_calls(connection, reference_ids, now, undo=undo)

    @retrying
    def dismiss_given_up(self, now: datetime, *, undo: bool = False) -> int:
        """The same for all calls that were given up."""
        with self._database.transaction() as connection:
            return dismissals.dismiss_given_up(connection, now, undo=undo)

    @retrying
    def dismiss_rejected(self, now: datetime, *, undo: bool = False) -> int:
        """The same for all rejected callbacks."""
        with self._database.transaction() as connection:
            return dismissals.dismiss_rejected(connection, now, undo=undo)

    @retrying
    def conclude(
        self,
        answers: Sequence[LookupAnswer],
        now: datetime,
        *,
        give_up: timedelta,
        verifying: Collection[str] = (),
    ) -> list[Conclusion]:
        """Store what look-ups brought, and release their calls; the conclusion of each, in the order given.

        The calls in ``verifying`` were settled, and asked about to be confirmed.
        """
        answers = [
            replace(answer, report=hide_in_report(answer.report, self._phones)) if answer.report else answer
            for answer in answers
        ]
        reports = [answer.report for answer in answers if answer.report]
        with self._database.transaction() as connection:
            locked = _LockedCalls(connection, now)
            locked.lock({**dict.fromkeys(answer.reference_id for answer in answers), **_first_received(reports)})
            conclusions = [
                locked.conclude(answer, give_up, verifying=answer.reference_id in verifying) for answer in answers
            ]
            locked.write(claimed_until=None)
        return conclusions

    def reopen(self, wanted: CallFilter, now: datetime) -> int:
        """Plan new look-ups, due at once, of calls that were given up; how many."""
        reopened = 0
        while found := self._reopen_some(wanted, now):
            reopened += found
        return reopened

    @retrying
    def _reopen_some(self, wanted: CallFilter, now: datetime) -> int:
        given_up = select(calls.c.reference_id).where(calls.c.gave_up_at.is_not(None), *wanted.conditions())
        given_up = given_up.order_by(calls.c.reference_id).limit(_PORTION).with_for_update()
        with self._database.transaction() as connection:
            locked = _LockedCalls(connection, now)
            locked.read(list(connection.scalars(given_up)), lock=True)
            locked.calls = {name: lookup_schedule.reopen(call, now) for name, call in locked.calls.items()}
            locked.write()
        return len(locked.calls)

    @retrying
    def replay_rejected(self, report: StatusReport, now: datetime) -> Effect | None:
        """Store the report that a rejected callback turned out to be, and mark that one as replayed.

        None: it is a message of another channel, and stays as it is.
        """
        with self._database.transaction() as connection:
            if other_channel_of(report) and not registered(connection, [report.reference_id]):
                return None
            (effect,) = record(connection, self._hidden([report]), now).effects
            rejected.mark_replayed(connection, report.id, now)
        return effect

    def refold(self, reference_ids: Sequence[str], now: datetime, *, check_only: bool) -> list[Refolded]:
        """Fold the history of these calls again, and mend those that differ unless ``check_only``."""
        return self._check(reference_ids, now) if check_only else self._mend(reference_ids, now)

    @retrying
    def _mend(self, reference_ids: Sequence[str], now: datetime) -> list[Refolded]:
        with self._database.transaction() as connection:
            locked = _LockedCalls(connection, now)
            locked.lock(_first_seen(connection, reference_ids))
            differing = locked.refold()
            locked.write()
        return differing

    @retrying
    def read_again(self, reports: Sequence[StatusReport], now: datetime) -> list[Refolded]:
        """Give stored reports the values that their payload is read as now, and fold their calls again."""
        values = [_read_values(report) for report in self._hidden(reports)]
        with self._database.transaction() as connection:
            locked = _LockedCalls(connection, now)
            locked.lock(_first_received(reports))
            bulk.update(connection, status_reports, values, keys=2)
            differing = locked.refold()
            locked.write()
        return differing

    @retrying
    def end_due_replay(self) -> None:
        """Note that all calls follow the newest rule."""
        with self._database.transaction() as connection:
            connection.execute(delete(due_replay))

    def _check(self, reference_ids: Sequence[str], now: datetime) -> list[Refolded]:
        with self._database.snapshot(limited=False) as connection:
            found = _LockedCalls(connection, now)
            found.read(reference_ids)
            absent = set(reference_ids) - found.calls.keys()
            without_row = _first_seen(connection, absent) if absent else ()
            return sorted([*found.refold(), *(Refolded(name, ("row",), None) for name in without_row)])


class _LockedCalls:
    """Some calls, locked in one transaction, and what becomes of them until they are written.

    A call that is absent is inserted as its reports make it.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
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

        Raises TransactionLost if another transaction has inserted one of them meanwhile.
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
            raise TransactionLost("another transaction has inserted a call at the same moment")
        if changed:
            bulk.update(self._connection, calls, changed)
        if new and bulk.insert_absent(self._connection, status_reports, new) < len(new):
            raise TransactionLost("another transaction has inserted a report at the same moment")
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


def _register_calls(known: dict[str, Call], registrations: Iterable[Registration], now: datetime) -> Registered:
    """Register calls in ``known``, which has all of them."""
    done = Registered()
    for registration in registrations:
        before = known[registration.reference_id]
        after = known[before.reference_id] = rule.register(before, registration, now)
        is_new = before.registered_at is None
        # How the id is spelled says nothing new of the call.
        is_changed = not is_new and replace(after, esms_id=before.esms_id) != before
        done += Registered(int(is_new), int(not is_new), int(is_changed))
    return done


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


def _first_received(reports: Iterable[StatusReport]) -> dict[str, datetime]:
    first: dict[str, datetime] = {}
    for report in reports:
        first[report.reference_id] = min(report.received_at, first.get(report.reference_id, report.received_at))
    return first


def _first_seen(connection: Connection, reference_ids: Collection[str]) -> dict[str, datetime]:
    """When the first report of each of these calls was received, and of calls without one, when they were placed."""
    first = (
        select(status_reports.c.reference_id, func.min(status_reports.c.received_at).label("at"))
        .where(bulk.is_one_of(connection, status_reports.c.reference_id, reference_ids))
        .group_by(status_reports.c.reference_id)
    )
    placed = select(calls.c.reference_id, calls.c.placed_at.label("at"))
    placed = placed.where(bulk.is_one_of(connection, calls.c.reference_id, reference_ids))
    return {row.reference_id: row.at for query in (placed, first) for row in connection.execute(query)}
