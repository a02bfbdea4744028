"""Writes reports, registrations and look-ups into calls and their history.

Every function locks its calls, folds, and writes, always in the order of the reference ids, so that concurrent writers
neither lose a change nor lock each other out. What a report means is decided by ``calls.rule``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, func, select

from webapp.calls import lookup_schedule, rule
from webapp.calls.rule import Call, Registration
from webapp.esms.hide_phones import hide_in_registration, hide_in_report
from webapp.esms.stored import other_channel_of
from webapp.storage import bulk, dismissals, rejected, rollups
from webapp.storage.locked_calls import LockedCalls, Refolded
from webapp.storage.models import calls, due_replay, status_reports
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.engine import Connection

    from webapp.calls.report import Effect, StatusReport
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter
    from webapp.storage.locked_calls import Conclusion
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


class Expected(NamedTuple):
    """What is expected of a batch of reports: it saves a SELECT, and the INSERT shows whether it was so."""

    calls_absent: bool = False
    reports_new: bool = False


NOTHING_EXPECTED = Expected()


class Recorded(NamedTuple):
    """The effects of reports, in the order given, and whether none of their calls was stored before."""

    effects: list[Effect]
    all_absent: bool


_PORTION = 1000
_REGISTERED_AT_ONCE = 100
"""Registrations of one transaction: callbacks wait for its locks, on SQLite all of them."""
_LONGEST_PAUSE_SECONDS = 0.1
"""On SQLite, writers try the lock now and then: without a pause the next transaction would always take it first."""


def record(
    connection: Connection, reports: Sequence[StatusReport], now: datetime, expected: Expected = NOTHING_EXPECTED
) -> Recorded:
    """Store reports and what they make of their calls.

    A report whose id is stored already does nothing, and has the effect that it had then. Raises InsertedMeanwhile if
    another transaction inserted one of the calls or reports at the same moment, or if it is not as ``expected``.
    """
    locked = LockedCalls(connection, now)
    first_seen = _first_received(reports)
    if not expected.calls_absent:
        locked.read(first_seen, lock=True)
    all_absent = not locked.calls
    locked.begin(first_seen)
    if not expected.reports_new:
        locked.skip_stored(reports)
    for report in sorted(reports, key=attrgetter("order")):
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
            locked = LockedCalls(connection, now)
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
            found = LockedCalls(connection, now)
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
            locked = LockedCalls(connection, now)
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
            locked = LockedCalls(connection, now)
            locked.lock({**dict.fromkeys(answer.reference_id for answer in answers), **_first_received(reports)})
            locked.skip_stored([report for report in reports if not locked.is_newest(report)])
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
            locked = LockedCalls(connection, now)
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
            locked = LockedCalls(connection, now)
            locked.lock(_first_seen(connection, reference_ids))
            differing = locked.refold()
            locked.write()
        return differing

    @retrying
    def read_again(self, reports: Sequence[StatusReport], now: datetime) -> list[Refolded]:
        """Give stored reports the values that their payload is read as now, and fold their calls again."""
        with self._database.transaction() as connection:
            locked = LockedCalls(connection, now)
            locked.lock(_first_received(reports))
            locked.read_again(self._hidden(reports))
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
            found = LockedCalls(connection, now)
            found.read(reference_ids)
            absent = set(reference_ids) - found.calls.keys()
            without_row = _first_seen(connection, absent) if absent else ()
            return sorted([*found.refold(), *(Refolded(name, ("row",), None) for name in without_row)])


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
