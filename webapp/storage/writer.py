"""Everything that is written: reports, registrations, look-ups, rejected callbacks and runs; each in one transaction.

The pattern is "insert if absent, lock, fold, write", always in the order of the reference ids, so that concurrent
writers neither lose a change nor lock each other out. What a report means is for the rule to say.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy import (
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from webapp.calls import late, rule, schedule
from webapp.calls.late import Trail
from webapp.calls.pace import Pace
from webapp.calls.report import StatusReport
from webapp.calls.rule import Call, Registration
from webapp.storage import bulk
from webapp.storage.claims import claim
from webapp.storage.database import clock
from webapp.storage.models import call_trails, calls, lookup_pace, reconcile_runs, rejected_callbacks, status_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import timedelta

    from sqlalchemy import Column, Select, Table
    from sqlalchemy.engine import Connection

    from webapp.calls.report import Effect
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.claims import Claimed, Due, Range
    from webapp.storage.database import Database

HOT = 50
"""A call with so many reports has a trail, so that a late one need not read them all."""
REJECTED_ROOM = 256 * 1024 * 1024
"""Bytes of payload that ``rejected_callbacks`` keeps together, at most."""
REJECTED_STEP = 1024 * 1024
"""Bytes that a process may add to them before it sums up again: a sum reads the whole table."""
REJECTED_SPARE = 16 * REJECTED_STEP
"""Bytes that are left free when room is made, for what as many processes add meanwhile."""
REJECTED_ROW_OVERHEAD = 512
"""Bytes that each rejected callback counts besides its payload, so that small ones are bounded in number too."""

Result = TypeVar("Result")
Outcome = Literal["done", "failures", "refused", "interrupted", "died"]
Conclusion = Literal["settled", "pending", "not_found", "failed", "gave_up"]

_AT_ONCE = 1000
_PACE = select(*(lookup_pace.c[field.name] for field in fields(Pace)))
_CALL_COLUMNS = [calls.c[field.name] for field in fields(Call)]
_CHANGING_COLUMNS = [column for column in _CALL_COLUMNS if column is not calls.c.reference_id]
_REPORT_COLUMNS = [status_reports.c[field.name] for field in fields(StatusReport)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """What reached the callback URL and could not be read. ``payload`` is JSON text of its query and body."""

    id: UUID
    received_at: datetime
    remote_addr: str | None
    method: str
    content_type: str | None
    payload: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A reconcile run: the names are the columns of ``reconcile_runs``."""

    id: UUID
    started_at: datetime
    host: str
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    checked: int = 0
    settled: int = 0
    pending: int = 0
    not_found: int = 0
    failed: int = 0
    gave_up: int = 0
    seen_at: datetime | None = None


class Writer:
    """All writes to one database. Every method raises ``database.Unavailable``, with nothing written, if it is away."""

    def __init__(self, database: Database) -> None:
        """Write to ``database``."""
        self._database = database
        self._all_new = False
        self._rejected_bytes = REJECTED_STEP

    def record(self, reports: Sequence[StatusReport], now: datetime) -> list[Effect]:
        """Store reports and what they make of their calls, durably; the effect of each, in the order given.

        A report whose id is stored already does nothing, and has the effect that it had then.
        """

        def work(batch: _Batch) -> list[Effect]:
            batch.open(_first_received(reports), reports)
            for report in sorted(reports, key=lambda report: report.order):
                batch.take(report)
            batch.write()
            return [batch.effects[report.id] for report in reports]

        return self._together(work, now)

    def register(self, registrations: Sequence[Registration], now: datetime) -> tuple[int, int]:
        """Register calls; how many are registered now for the first time, and how many had been before."""

        def work(batch: _Batch) -> tuple[int, int]:
            batch.open({registration.reference_id: now for registration in registrations})
            registered = 0
            for registration in registrations:
                call = batch.calls[registration.reference_id]
                registered += call.registered_at is None
                batch.calls[call.reference_id] = rule.register(call, registration, now)
            batch.write()
            return registered, len(registrations) - registered

        return self._together(work, now)

    def conclude(
        self,
        answers: Sequence[LookupAnswer],
        now: datetime,
        *,
        give_up: timedelta,
        verifying: Collection[str] = (),
    ) -> list[Conclusion]:
        """Store what look-ups brought, and free their calls; what became of each look-up, in the order given.

        The calls in ``verifying`` were settled, and asked about to be confirmed.
        """

        def work(batch: _Batch) -> list[Conclusion]:
            reports = [answer.report for answer in answers if answer.report]
            batch.open({answer.reference_id: now for answer in answers} | _first_received(reports), reports)
            conclusions = [
                batch.conclude(answer, give_up, verifying=answer.reference_id in verifying) for answer in answers
            ]
            batch.write(claimed_until=None)
            return conclusions

        return self._together(work, now)

    def claim(self, due: Due, limit: int, *, now: datetime, until: datetime, elsewhere: bool = False) -> list[Claimed]:
        """Take up to ``limit`` due calls for oneself until then: those never asked about, then the longest due.

        Calls that are to be confirmed come after all others, the first placed first. With ``elsewhere`` take some of
        each kind instead, from the order's other end: where one stretch of it fails, these may not.
        """
        return self._database.write(
            lambda connection: claim(connection, due, limit, now=now, until=until, elsewhere=elsewhere)
        )

    def keep(self, claims: Mapping[str, datetime], until: datetime) -> set[str]:
        """Have claimed calls for longer; the ids of those that are still claimed until when ``claims`` says.

        The others' time was over, and another run claimed them since.
        """
        return self._set_claims(claims, until)

    def release(self, claims: Mapping[str, datetime]) -> None:
        """Give back calls that were claimed until then and not asked about; they stay due as they were."""
        self._set_claims(claims, None)

    def _set_claims(self, claims: Mapping[str, datetime], until: datetime | None) -> set[str]:
        key = calls.c.reference_id
        mine = and_(key.in_(claims), calls.c.claimed_until.in_(set(claims.values())))
        in_order = select(key).where(mine).order_by(key).with_for_update()
        statement = update(calls).where(key.in_(in_order)).values(claimed_until=until).returning(key)
        return self._database.write(lambda connection: set(connection.scalars(statement)))

    def revive(self, within: Range, now: datetime) -> int:
        """Have eSMS asked again about calls that were given up, at once; how many."""
        given_up = select(calls.c.reference_id).where(calls.c.gave_up_at.is_not(None), *within.conditions())
        given_up = given_up.order_by(calls.c.reference_id).limit(_AT_ONCE).with_for_update()

        def work(batch: _Batch) -> int:
            batch.look(list(batch.connection.scalars(given_up)), lock=True)
            batch.calls = {name: schedule.revive(call, now) for name, call in batch.calls.items()}
            batch.write()
            return len(batch.calls)

        revived = 0
        while found := self._together(work, now):
            revived += found
        return revived

    def pace(self, change: Callable[[Pace, datetime], tuple[Pace, Result]]) -> Result:
        """Change the pace that all runs share, given what it is and what the database's clock says; what that gives.

        It is locked meanwhile: ``change`` must be quick.
        """

        def work(connection: Connection) -> Result:
            found = _locked_pace(connection)
            while found is None:
                first = _insert(connection, lookup_pace).values(one=1, **asdict(Pace(next_at=clock(connection))))
                connection.execute(first.on_conflict_do_nothing())
                found = _locked_pace(connection)
            after, result = change(*found)
            connection.execute(update(lookup_pace).values(asdict(after)))
            return result

        return self._database.write(work)

    def start_run(self, run: Run, *, lease: timedelta) -> None:
        """Write the run's row, unfinished; and close those of runs that gave no sign of life for a lease: they died."""
        seen_at = func.coalesce(reconcile_runs.c.seen_at, reconcile_runs.c.started_at)
        silent = and_(reconcile_runs.c.finished_at.is_(None), seen_at < run.started_at - lease)
        died = update(reconcile_runs).where(silent).values(outcome="died", finished_at=seen_at)

        def work(connection: Connection) -> None:
            connection.execute(died)
            connection.execute(insert(reconcile_runs).values(asdict(run)))

        self._database.write(work)

    def save_run(self, run: Run) -> None:
        """Write the run's row as it now is."""
        statement = update(reconcile_runs).where(reconcile_runs.c.id == run.id).values(asdict(run))
        self._database.write(lambda connection: connection.execute(statement))

    def reject(self, rejected: Rejected) -> None:
        """Keep what could not be read; the same again only counts. Makes room by dropping replayed and old ones."""
        size = self._database.write(lambda connection: _reject(connection, rejected))
        # Only the whole table's sum tells whether room is needed: that costs, and need not be known each time.
        self._rejected_bytes += size
        if size and self._rejected_bytes >= REJECTED_STEP:
            self._database.write(_make_room)
            self._rejected_bytes = 0

    def replay_rejected(self, report: StatusReport, now: datetime) -> Effect:
        """Store the report that a rejected callback turned out to be, and mark that one as replayed."""
        mark = update(rejected_callbacks).where(rejected_callbacks.c.id == report.id).values(replayed_at=now)

        def work(batch: _Batch) -> Effect:
            batch.open(_first_received([report]), [report])
            batch.take(report)
            batch.write()
            batch.connection.execute(mark)
            return batch.effects[report.id]

        return self._together(work, now)

    def refold(self, reference_ids: Sequence[str], now: datetime, *, check_only: bool) -> list[str]:
        """Fold the whole history of these calls again; which of them differ. Unless checking, these are put right."""

        def work(batch: _Batch) -> list[str]:
            batch.open(_heard_of(batch.connection, reference_ids))
            differing = batch.refold()
            batch.write()
            return differing

        if not check_only:
            return self._together(work, now)
        with self._database.read() as connection:
            batch = _Batch(connection, now, blind=False, careful=False)
            batch.look(reference_ids)
            absent = set(reference_ids) - batch.calls.keys()
            return sorted([*batch.refold(), *(_heard_of(connection, absent) if absent else ())])

    def _together(self, work: Callable[[_Batch], Result], now: datetime) -> Result:
        """Do ``work`` on some calls in one transaction; again, if something that it took for new was there already."""
        try:
            return self._attempt(work, now, blind=self._all_new)
        except _Overtaken:
            return self._carefully(work, now)

    def _carefully(self, work: Callable[[_Batch], Result], now: datetime) -> Result:
        while True:
            with suppress(_Overtaken):
                return self._attempt(work, now, careful=True)

    def _attempt(
        self, work: Callable[[_Batch], Result], now: datetime, *, blind: bool = False, careful: bool = False
    ) -> Result:
        def transaction(connection: Connection) -> Result:
            batch = _Batch(connection, now, blind=blind, careful=careful)
            result = work(batch)
            # Calls that are registered are all known, others all new: the next ones will be as these were.
            self._all_new = batch.all_new
            return result

        return self._database.write(transaction)


class _Overtaken(Exception):
    """Another transaction inserted a call or a report first: all is to be done again, on what is there now."""


class _Batch:
    """Some calls, locked in one transaction, and what becomes of them until they are written.

    A call that is absent is inserted as its reports make it. Calls are taken to be absent if it is ``blind``, reports
    to be new unless it is ``careful``. If the database knows better, the insert tells, and all is done again.
    """

    def __init__(self, connection: Connection, now: datetime, *, blind: bool, careful: bool) -> None:
        self.connection = connection
        self._now = now
        self._blind = blind
        self._careful = careful
        self._before: dict[str, Call] = {}
        self._absent: set[str] = set()
        self._history: dict[str, list[StatusReport]] = {}
        self._trails: dict[str, Trail] = {}
        self._followed: set[str] = set()
        self._new: list[StatusReport] = []
        self.calls: dict[str, Call] = {}
        self.effects: dict[UUID, Effect] = {}

    def open(self, first_seen: dict[str, datetime], reports: Sequence[StatusReport] = ()) -> None:
        """Lock the calls, and begin those that are absent; see which of the reports are stored already."""
        if not self._blind:
            self.look(first_seen, lock=True)
        for reference_id, at in first_seen.items():
            if reference_id not in self.calls:
                self._absent.add(reference_id)
                self.calls[reference_id] = Call(reference_id=reference_id, placed_at=at)
        if reports and self._careful:
            stored = select(status_reports.c.id, status_reports.c.effect)
            stored = stored.where(
                bulk.is_one_of(self.connection, status_reports.c.id, [report.id for report in reports])
            )
            self.effects = {row.id: row.effect for row in self.connection.execute(stored)}

    @property
    def all_new(self) -> bool:
        """Whether none of its calls was there."""
        return bool(self.calls) and len(self._absent) == len(self.calls)

    def look(self, reference_ids: Collection[str], *, lock: bool = False) -> None:
        """Read the calls as they are."""
        query = select(*_CALL_COLUMNS).where(bulk.is_one_of(self.connection, calls.c.reference_id, reference_ids))
        if lock:
            query = query.order_by(calls.c.reference_id).with_for_update()
        self._before = {row.reference_id: _call(row._mapping) for row in self.connection.execute(query)}  # noqa: SLF001
        self.calls = dict(self._before)
        if hot := [call.reference_id for call in self._before.values() if call.report_count >= HOT]:
            mine = select(call_trails).where(bulk.is_one_of(self.connection, call_trails.c.reference_id, hot))
            self._trails = {row.reference_id: Trail.loads(row.trail) for row in self.connection.execute(mine)}

    def take(self, report: StatusReport) -> None:
        """Fold one report, unless it is stored already; where the call alone cannot tell, its history does."""
        if report.id in self.effects:
            return
        before = self.calls[report.reference_id]
        hot = before.report_count >= HOT
        if not hot and rule.can_follow(before, report):
            after = rule.fold(before, report)
        else:
            after = (self._follow(before, report) if hot else None) or self._fold_all(before, report)
        if report.reference_id in self._history:
            self._history[report.reference_id].append(report)
        after = schedule.plan(before, after, self._now)
        self.calls[report.reference_id] = after
        self.effects[report.id] = rule.effect(before, report, after)
        self._new.append(report)

    def _follow(self, before: Call, report: StatusReport) -> Call | None:
        """The call after a report, wherever it belongs, by its trail; None where the trail does not tell."""
        trail = self._trails.get(before.reference_id)
        told = late.insert(trail, before, report) if trail else None
        if told is None:
            return None
        self._leave_trail(before.reference_id, told[0])
        return told[1]

    def _fold_all(self, before: Call, report: StatusReport) -> Call:
        history = [*self._reports_of(report.reference_id), report]
        if len(history) >= HOT:
            self._leave_trail(report.reference_id, late.trail_of(history))
        return rule.fold_all(before, history)

    def _leave_trail(self, reference_id: str, trail: Trail) -> None:
        self._trails[reference_id] = trail
        self._followed.add(reference_id)

    def conclude(self, answer: LookupAnswer, give_up: timedelta, *, verifying: bool) -> Conclusion:
        """Fold the answer of one look-up, charge it to its call, and give up a call that stays open for too long."""
        before = self.calls[answer.reference_id]
        if answer.report:
            self.take(answer.report)
        spread = random.uniform(0.9, 1.1)  # noqa: S311
        folded = self.calls[answer.reference_id]
        after = schedule.charge(before, folded, answer.code, self._now, spread=spread, verifying=verifying)
        open_still = not after.settled or after.conflict or verifying
        if open_still and answer.heard and answer.kind != "final" and after.placed_at <= self._now - give_up:
            after = schedule.give_up(after, self._now)
        self.calls[answer.reference_id] = after
        if after.gave_up_at and not before.gave_up_at:
            return "gave_up"
        return "settled" if answer.kind == "final" else answer.kind

    def refold(self) -> list[str]:
        """Make every call the fold of its history; the ids of those that differed."""
        differing = []
        # Together, but for the hot ones, of which one alone takes much memory.
        self._read_histories([name for name, call in self.calls.items() if call.report_count < HOT])
        for reference_id, before in self.calls.items():
            history = self._reports_of(reference_id)
            after = schedule.plan(before, rule.fold_all(before, history), self._now)
            if len(history) >= HOT:
                self._leave_trail(reference_id, late.trail_of(history))
            if after != before:
                differing.append(reference_id)
                self.calls[reference_id] = after
        return differing

    def write(self, **columns: Any) -> None:
        """Write the reports that are new and the calls that changed; ``columns`` of those that changed, besides.

        Raises _Overtaken if one that was taken for new is there already.
        """
        absent = [
            _values(self.calls[name], _CALL_COLUMNS) | {"created_at": self._now, "updated_at": self._now}
            for name in sorted(self._absent)
        ]
        changed = [
            _values(call, _CHANGING_COLUMNS) | {"updated_at": self._now, **columns, "reference_id": name}
            for name, call in self.calls.items()
            if name not in self._absent and call != self._before[name]
        ]
        new = [_values(report, _REPORT_COLUMNS) | {"effect": self.effects[report.id]} for report in self._new]
        if absent and bulk.insert_absent(self.connection, calls, absent) < len(absent):
            raise _Overtaken
        if changed:
            bulk.update(self.connection, calls, changed)
        if new and bulk.insert_absent(self.connection, status_reports, new) < len(new):
            raise _Overtaken
        if self._followed:
            _write_trails(self.connection, {name: self._trails[name] for name in sorted(self._followed)})

    def _reports_of(self, reference_id: str) -> list[StatusReport]:
        if reference_id not in self._history:
            self._read_histories([reference_id])
            self._history[reference_id] += [report for report in self._new if report.reference_id == reference_id]
        return self._history[reference_id]

    def _read_histories(self, names: Collection[str]) -> None:
        self._history |= {name: [] for name in names}
        query = select(*_REPORT_COLUMNS).where(bulk.is_one_of(self.connection, status_reports.c.reference_id, names))
        for row in self.connection.execute(query):
            self._history[row.reference_id].append(StatusReport(**row._mapping))  # noqa: SLF001


def _call(row: Mapping[Any, Any]) -> Call:
    call = Call(**row)
    # A row that was inserted by SQL names every field as registered; those that it leaves empty were not.
    registered = {name for name in call.registered_fields if getattr(call, name) is not None}
    return replace(call, registered_fields=frozenset(registered))


def _values(of: Call | StatusReport, columns: list[Column[Any]]) -> dict[str, Any]:
    return {column.name: getattr(of, column.name) for column in columns}


def _first_received(reports: Iterable[StatusReport]) -> dict[str, datetime]:
    first: dict[str, datetime] = {}
    for report in reports:
        first[report.reference_id] = min(report.received_at, first.get(report.reference_id, report.received_at))
    return first


def _heard_of(connection: Connection, reference_ids: Collection[str]) -> dict[str, datetime]:
    """When the first report of each of these calls was received, and of calls without one, when they were placed."""
    first = (
        select(status_reports.c.reference_id, func.min(status_reports.c.received_at).label("at"))
        .where(bulk.is_one_of(connection, status_reports.c.reference_id, reference_ids))
        .group_by(status_reports.c.reference_id)
    )
    placed = select(calls.c.reference_id, calls.c.placed_at.label("at"))
    placed = placed.where(bulk.is_one_of(connection, calls.c.reference_id, reference_ids))
    return {row.reference_id: row.at for query in (placed, first) for row in connection.execute(query)}


def _locked_pace(connection: Connection) -> tuple[Pace, datetime] | None:
    """The pace, and what the database's clock says once that is locked; None if there is none yet."""
    query: Select[Any] = _PACE
    if connection.dialect.name == "postgresql":
        # Outside of the subquery, the clock is read after the lock was waited for. All runs wait for it: it is not held
        # until the disk has the commit. A server that crashes forgets the last ones, and ends the runs that made them.
        locked = _PACE.with_for_update().subquery()
        not_synced = func.set_config("synchronous_commit", "off", literal(value=True))
        query = select(*locked.c, func.clock_timestamp().label("now"), not_synced)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    pace = Pace(**{field.name: row[field.name] for field in fields(Pace)})
    return pace, row.get("now") or clock(connection)


def _insert(connection: Connection, table: Table) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def _write_trails(connection: Connection, trails: Mapping[str, Trail]) -> None:
    statement = _insert(connection, call_trails)
    upsert = statement.on_conflict_do_update(index_elements=["reference_id"], set_={"trail": statement.excluded.trail})
    rows = [{"reference_id": name, "trail": trail.dumps()} for name, trail in trails.items()]
    connection.execute(upsert, rows)


def _reject(connection: Connection, rejected: Rejected) -> int:
    """How many bytes it takes; 0 if it was there already."""
    size = len(rejected.payload.encode()) + REJECTED_ROW_OVERHEAD
    statement = _insert(connection, rejected_callbacks).values(
        id=rejected.id,
        first_at=rejected.received_at,
        last_at=rejected.received_at,
        remote_addr=rejected.remote_addr,
        method=rejected.method,
        content_type=rejected.content_type,
        payload=rejected.payload,
        payload_sha256=hashlib.sha256(rejected.payload.encode()).hexdigest(),
        size=size,
        reason=rejected.reason,
        count=1,
    )
    again = {
        # Stored again under the same id, it is the same one: whoever was in doubt stored it once more.
        "count": rejected_callbacks.c.count + case((rejected_callbacks.c.id == statement.excluded.id, 0), else_=1),
        "replayed_at": None,
        "last_at": func.greatest(rejected_callbacks.c.last_at, statement.excluded.last_at)
        if connection.dialect.name == "postgresql"
        else func.max(rejected_callbacks.c.last_at, statement.excluded.last_at),
    }
    key = ["method", "payload_sha256", "reason"]
    upsert = statement.on_conflict_do_update(index_elements=key, set_=again).returning(rejected_callbacks.c.id)
    return size if connection.scalar(upsert) == rejected.id else 0


def _make_room(connection: Connection) -> None:
    excess = (connection.scalar(select(func.sum(rejected_callbacks.c.size))) or 0) - REJECTED_ROOM + REJECTED_SPARE
    if excess <= 0:
        return
    oldest = select(rejected_callbacks.c.id, rejected_callbacks.c.size).order_by(
        rejected_callbacks.c.replayed_at.nulls_last(), rejected_callbacks.c.first_at
    )
    dropped = []
    with connection.execute(oldest, execution_options={"yield_per": 100}) as rows:
        while excess > 0 and (row := rows.fetchone()):
            dropped.append(row.id)
            excess -= row.size
    connection.execute(delete(rejected_callbacks).where(rejected_callbacks.c.id.in_(dropped)))
