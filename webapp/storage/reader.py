"""Everything that is only read: calls, their pages, exports and counts. Changes nothing, and decides nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select, tuple_, union

from webapp.calls.rule import Call
from webapp.storage import bulk
from webapp.storage.claims import DUE_SINCE, Due, due_parts, is_due
from webapp.storage.filters import EVERY_CALL, CallFilter, is_missing
from webapp.storage.models import calls, reconcile_runs, rejected_callbacks, status_reports
from webapp.storage.rejected import Rejected
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator
    from uuid import UUID

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

_PORTION = 1000
_BETWEEN_PAUSES = 200
_DAY = timedelta(days=1)
_SHOWN_GIVEN_UP = 20
_IS_GIVEN_UP = calls.c.gave_up_at.is_not(None)
_CALL_COLUMNS = [calls.c[field.name] for field in fields(Call)]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the next one begins behind it."""

    placed_at: datetime
    reference_id: str


@dataclass(frozen=True, slots=True)
class LookupShare:
    """How many calls were settled in the last 24 hours, and how many of these by a lookup."""

    settled: int
    by_lookup: int

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where none was settled."""
        return self.by_lookup / self.settled if self.settled else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts of one moment, for ``esms-calls status``."""

    calls: int
    settled: int
    by_callback: int
    by_lookup: int
    missing: int
    overdue: int
    oldest_missing: datetime | None
    given_up: int
    given_up_calls: list[str]
    last_day: LookupShare
    conflicts: int
    rejected: int
    rejected_bytes: int
    last_run: Mapping[str, Any] | None


class Reader:
    """Reads one database. Every method raises ``errors.Unavailable`` if it is away."""

    def __init__(self, database: Database) -> None:
        """Read from ``database``."""
        self._database = database

    def call(self, reference_id: str) -> dict[str, Any] | None:
        """One call, flat, with its reports in their order; None if it is unknown."""
        of_call = status_reports.c.reference_id == reference_id
        in_order = (status_reports.c.received_at, status_reports.c.id)
        with self._database.snapshot() as connection:
            row = connection.execute(select(calls).where(calls.c.reference_id == reference_id)).mappings().first()
            if row is None:
                return None
            found = connection.execute(select(status_reports).where(of_call).order_by(*in_order)).mappings()
            reports: list[dict[str, Any]] = []
            for portion in found.partitions(_BETWEEN_PAUSES):
                reports += map(_plain_report, portion)
                time.sleep(0)  # under the server, others are served between two portions
        return _plain_row(row) | {"reports": reports}

    def page(
        self, wanted: CallFilter, after: Position | None, limit: int
    ) -> tuple[list[dict[str, Any]], Position | None]:
        """Calls, newest placed first, and where the next page begins; None when there is none."""
        place = tuple_(calls.c.placed_at, calls.c.reference_id)
        query = select(calls).where(*wanted.conditions())
        if after:
            query = query.where(place < (after.placed_at, after.reference_id))
        query = query.order_by(calls.c.placed_at.desc(), calls.c.reference_id.desc()).limit(limit + 1)
        with self._database.snapshot() as connection:
            rows = list(connection.execute(query).mappings())
        last = rows[limit - 1] if len(rows) > limit else None
        position = Position(last["placed_at"], last["reference_id"]) if last else None
        return [_plain_row(row) for row in rows[:limit]], position

    def export(self, wanted: CallFilter = EVERY_CALL) -> Generator[dict[str, Any]]:
        """These calls, oldest placed first, streamed; to be closed."""
        query = select(calls).where(*wanted.conditions()).order_by(calls.c.placed_at, calls.c.reference_id)
        with (
            self._database.snapshot(limited=False) as connection,
            connection.execute(query, execution_options={"yield_per": _PORTION}) as rows,
        ):
            for row in rows.mappings():
                yield _plain_row(row)

    def count(self, wanted: CallFilter = EVERY_CALL) -> int:
        """The number of these calls."""
        query = select(func.count()).select_from(calls).where(*wanted.conditions())
        with self._database.snapshot(limited=False) as connection:
            return connection.scalar(query) or 0

    def calls_by_id(self, reference_ids: Collection[str]) -> dict[str, Call]:
        """These calls as they are, but for those that are not there."""
        with self._database.snapshot() as connection:
            query = select(*_CALL_COLUMNS).where(bulk.is_one_of(connection, calls.c.reference_id, reference_ids))
            return {row["reference_id"]: Call(**row) for row in connection.execute(query).mappings()}

    def ids(self, wanted: CallFilter) -> Iterator[str]:
        """The ids of these calls, in any order, streamed. Read them at once: a transaction is open meanwhile."""
        query = select(calls.c.reference_id).where(*wanted.conditions())
        with (
            self._database.snapshot(limited=False) as connection,
            connection.execute(query, execution_options={"yield_per": _PORTION}) as rows,
        ):
            yield from rows.scalars()

    def ids_after(self, wanted: CallFilter, last: str, limit: int) -> list[str]:
        """The ids of the next of these calls after this one, in order."""
        query = select(calls.c.reference_id).where(*wanted.conditions(), calls.c.reference_id > last)
        in_order = query.order_by(calls.c.reference_id).limit(limit)
        with self._database.snapshot() as connection:
            return list(connection.scalars(in_order))

    def due(self, due: Due, at_most: int) -> tuple[int, list[str]]:
        """How many calls are due, and the first of them in the order of look-ups."""
        to_be_confirmed = and_(calls.c.settled_at.is_not(None), ~calls.c.conflict)
        in_order = (to_be_confirmed, and_(~to_be_confirmed, calls.c.lookup_count > 0), DUE_SINCE)
        first = select(calls.c.reference_id).where(is_due(due)).order_by(*in_order)
        counts = [select(func.count()).select_from(calls).where(part).scalar_subquery() for part in due_parts(due)]
        numbers = select(*counts)
        with self._database.snapshot() as connection:
            number = sum(connection.execute(numbers).one())
            return number, list(connection.scalars(first.limit(at_most))) if at_most else []

    def any_due(self, due: Due) -> bool:
        """Whether any call is due; cheap."""
        some = select(calls.c.reference_id).where(is_due(due)).limit(1)
        with self._database.snapshot() as connection:
            return connection.scalar(some) is not None

    def given_up(self, wanted: CallFilter) -> int:
        """How many of these calls were given up."""
        given_up = select(func.count()).select_from(calls).where(calls.c.gave_up_at.is_not(None), *wanted.conditions())
        with self._database.snapshot() as connection:
            return connection.scalar(given_up) or 0

    def status(self, due: Due) -> Status:
        """Counts at the time ``due.due_by``, with the first calls given up, oldest placed first."""
        number = func.count()
        counts = select(
            number.label("calls"),
            number.filter(calls.c.settled_at.is_not(None)).label("settled"),
            number.filter(calls.c.settled_by == "callback").label("by_callback"),
            number.filter(calls.c.settled_by == "lookup").label("by_lookup"),
            number.filter(is_missing()).label("missing"),
            number.filter(is_due(due)).label("overdue"),
            func.min(calls.c.placed_at).filter(is_missing()).label("oldest_missing"),
            number.filter(_IS_GIVEN_UP).label("given_up"),
            number.filter(calls.c.conflict).label("conflicts"),
        )
        with self._database.snapshot(limited=False) as connection:
            found: dict[str, Any] = {**connection.execute(counts).mappings().one(), **_rejected_counts(connection)}
            return Status(
                **found,
                given_up_calls=_first_given_up(connection) if found["given_up"] else [],
                last_day=_lookup_share(connection, due.due_until),
                last_run=_last_run(connection),
            )

    def lookup_share(self, now: datetime) -> LookupShare:
        """How many of the calls settled in the 24 hours before ``now`` were settled by a lookup; read from an index."""
        with self._database.snapshot(limited=False) as connection:
            return _lookup_share(connection, now)

    def rejected(self, since: datetime | None) -> Iterator[Rejected]:
        """The rejected callbacks that were not replayed, oldest first, streamed in portions."""
        table = rejected_callbacks
        columns = [table.c[field.name] for field in fields(Rejected) if field.name != "received_at"]
        query = select(*columns, table.c.first_at.label("received_at")).where(table.c.replayed_at.is_(None))
        if since is not None:
            query = query.where(table.c.last_at >= since)
        query = query.order_by(table.c.id).limit(_PORTION)
        last: UUID | None = None
        while True:
            with self._database.snapshot(limited=False) as connection:
                page = query.where(table.c.id > last) if last else query
                found = [Rejected(**row) for row in connection.execute(page).mappings()]
            yield from found
            if len(found) < _PORTION:
                return
            last = found[-1].id

    def reference_ids(self) -> Iterator[list[str]]:
        """The ids of all calls, with or without a row in ``calls``, in portions."""
        last = ""
        while True:
            portions = [
                select(table.c.reference_id)
                .where(table.c.reference_id > last)
                .distinct()
                .order_by(table.c.reference_id)
                .limit(_PORTION)
                .subquery()
                for table in (calls, status_reports)
            ]
            both = union(*(select(portion) for portion in portions)).subquery()
            with self._database.snapshot(limited=False) as connection:
                found = list(connection.scalars(select(both).order_by(both.c.reference_id).limit(_PORTION)))
            if not found:
                return
            yield found
            last = found[-1]


def _lookup_share(connection: Connection, now: datetime) -> LookupShare:
    last_day = calls.c.settled_at.between(now - _DAY, now)
    by_lookup = func.count().filter(calls.c.settled_by == "lookup")
    return LookupShare(*connection.execute(select(func.count(), by_lookup).where(last_day)).one())


def _first_given_up(connection: Connection) -> list[str]:
    oldest_first = (calls.c.placed_at, calls.c.reference_id)
    first = select(calls.c.reference_id).where(_IS_GIVEN_UP).order_by(*oldest_first).limit(_SHOWN_GIVEN_UP)
    return list(connection.scalars(first))


def _rejected_counts(connection: Connection) -> dict[str, int]:
    table = rejected_callbacks
    number = connection.scalar(select(func.count()).select_from(table).where(table.c.replayed_at.is_(None)))
    return {"rejected": number or 0, "rejected_bytes": int(connection.scalar(select(func.sum(table.c.size))) or 0)}


def _last_run(connection: Connection) -> Mapping[str, Any] | None:
    newest = select(reconcile_runs).order_by(reconcile_runs.c.started_at.desc()).limit(1)
    row = connection.execute(newest).mappings().first()
    return dict(row) if row else None


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in row.items()}


def _plain_report(row: Mapping[Any, Any]) -> dict[str, Any]:
    return _plain_row(row) | {"payload": json.loads(row["payload"])}
