"""Everything that is only read: calls, their pages, exports and counts. Changes nothing, and decides nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select, tuple_, union

from webapp.calls.rule import Call
from webapp.esms.stored import stored_report
from webapp.storage import bulk
from webapp.storage.claims import DUE_SINCE, Due, due_parts, is_due
from webapp.storage.columns import CALL_COLUMNS, REPORT_COLUMNS
from webapp.storage.filters import EVERY_CALL, CallFilter
from webapp.storage.models import calls, due_replay, rejected_callbacks, status_reports
from webapp.storage.monitoring import Now, Recent, ToDecide, read_now, read_recent, read_to_decide
from webapp.storage.rejected import Rejected
from webapp.storage.status import LookupShare, Status, lookup_share, read_status
from webapp.storage.types import plain
from webapp.support.yield_to_others import let_others_run

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import Column, ColumnElement, Select
    from sqlalchemy.engine import RowMapping

    from webapp.calls.report import StatusReport
    from webapp.storage.database import Database

_PORTION = 1000
_PORTION_BESIDE_CALLBACKS = 200
"""Rows that are read without a pause, while callbacks of the same process wait."""
_BETWEEN_PAUSES = 200


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the next one begins behind it."""

    placed_at: datetime
    reference_id: str


NEWEST_FIRST = (calls.c.placed_at.desc(), calls.c.reference_id.desc())


def position_of(call: Mapping[Any, Any]) -> Position:
    """The position of a row of calls."""
    return Position(call["placed_at"], call["reference_id"])


def place() -> Any:
    """What is compared with a Position, in the order of NEWEST_FIRST."""
    return tuple_(calls.c.placed_at, calls.c.reference_id)


def behind(position: Position | None) -> list[ColumnElement[bool]]:
    """The condition that a call comes after this position, newest first; none for None."""
    return [place() < (position.placed_at, position.reference_id)] if position else []


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
                let_others_run()
        return _plain_row(row) | {"reports": reports}

    def page(
        self, wanted: CallFilter, after: Position | None, limit: int
    ) -> tuple[list[dict[str, Any]], Position | None]:
        """Calls, newest placed first, and where the next page begins; None when there is none."""
        wanted = wanted.also_hashed(self._database.phones)
        query = select(calls).where(*wanted.conditions(), *behind(after)).order_by(*NEWEST_FIRST).limit(limit + 1)
        with self._database.snapshot() as connection:
            rows = list(connection.execute(query).mappings())
        position = position_of(rows[limit - 1]) if len(rows) > limit else None
        return [_plain_row(row) for row in rows[:limit]], position

    def export(
        self, wanted: CallFilter = EVERY_CALL, columns: Sequence[str] = tuple(calls.columns.keys())
    ) -> Generator[dict[str, Any]]:
        """These columns of these calls, oldest placed first, streamed; to be closed."""
        query = select(*(calls.c[name] for name in columns)).where(*wanted.conditions())
        query = query.order_by(calls.c.placed_at, calls.c.reference_id)
        return self._stream(query)

    def portions(self, wanted: CallFilter, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """These columns of these calls, newest placed first, each portion in a transaction of its own.

        For those who read slowly: no transaction, and no connection, waits for them. Calls that change meanwhile are as
        they are when their portion is read.
        """
        names = dict.fromkeys([*columns, "placed_at", "reference_id"])
        query = select(*(calls.c[name] for name in names)).order_by(*NEWEST_FIRST).limit(_PORTION_BESIDE_CALLBACKS)
        page = query.where(*wanted.conditions())
        # SQLite reads all between two upper bounds: the place behind the last call is bound enough.
        unbounded = query.where(*replace(wanted, until=None).conditions())
        while True:
            with self._database.snapshot(limited=False) as connection:
                found = connection.execute(page).mappings().all()
            if found:
                yield [_plain_row(row) for row in found]
            if len(found) < _PORTION_BESIDE_CALLBACKS:
                return
            page = unbounded.where(*behind(position_of(found[-1])))

    def export_reports(
        self, wanted: CallFilter, columns: Sequence[str] = tuple(status_reports.columns.keys())
    ) -> Generator[dict[str, Any]]:
        """These columns of the reports of these calls, and ``placed_at`` of the call; streamed, to be closed.

        The reports of a call are together and in their order; calls are in that of ``export``.
        """
        query = select(*(status_reports.c[name] for name in columns), calls.c.placed_at)
        query = query.join_from(calls, status_reports, status_reports.c.reference_id == calls.c.reference_id)
        query = query.where(*wanted.conditions()).order_by(
            calls.c.placed_at, calls.c.reference_id, status_reports.c.received_at, status_reports.c.id
        )
        return self._stream(query)

    def _stream(self, query: Select[Any]) -> Generator[dict[str, Any]]:
        with (
            self._database.snapshot(limited=False) as connection,
            connection.execute(query, execution_options={"yield_per": _PORTION}) as rows,
        ):
            for row in rows.mappings():
                yield _plain_row(row)

    def count_reports(self, wanted: CallFilter) -> int:
        """The number of reports of these calls."""
        query = select(func.coalesce(func.sum(calls.c.report_count), 0)).where(*wanted.conditions())
        with self._database.snapshot(limited=False) as connection:
            return connection.scalar(query) or 0

    def count(self, wanted: CallFilter = EVERY_CALL) -> int:
        """The number of these calls."""
        query = select(func.count()).select_from(calls).where(*wanted.conditions())
        with self._database.snapshot(limited=False) as connection:
            return connection.scalar(query) or 0

    def calls_by_id(self, reference_ids: Collection[str]) -> dict[str, Call]:
        """These calls as they are, but for those that are not there."""
        with self._database.snapshot() as connection:
            query = select(*CALL_COLUMNS).where(bulk.is_one_of(connection, calls.c.reference_id, reference_ids))
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
        parts = due_parts(due)
        counts = [select(func.count()).select_from(calls).where(part).scalar_subquery() for part in parts]
        to_be_confirmed = and_(calls.c.settled_at.is_not(None), ~calls.c.conflict)
        later = (calls.c.registered_at.is_(None), calls.c.lookup_count > 0)
        in_order = (to_be_confirmed, *(and_(~to_be_confirmed, condition) for condition in later), DUE_SINCE)
        first = select(calls.c.reference_id).where(or_(*parts)).order_by(*in_order).limit(at_most)
        with self._database.snapshot() as connection:
            number = sum(connection.execute(select(*counts)).one())
            return number, list(connection.scalars(first)) if at_most else []

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
        """Counts at the time ``due.due_until``."""
        with self._database.snapshot(limited=False) as connection:
            return read_status(connection, due, due.due_until)

    def lookup_share(self, now: datetime) -> LookupShare:
        """How many of the calls settled in the 24 hours before ``now`` were settled by a lookup; read from an index."""
        with self._database.snapshot(limited=False) as connection:
            return lookup_share(connection, now)

    def now(self, due: Due, lease: timedelta) -> Now:
        """What /metrics shows of the time ``due.due_until``."""
        with self._database.snapshot() as connection:
            return read_now(connection, due, due.due_until, lease)

    def to_decide(self) -> ToDecide:
        """What /metrics shows of calls about which a person decides."""
        with self._database.snapshot() as connection:
            return read_to_decide(connection)

    def recent(self, due: Due) -> Recent:
        """What /metrics shows of the hour and the day before ``due.due_until``."""
        with self._database.snapshot() as connection:
            return read_recent(connection, due, due.due_until)

    def rejected(self, since: datetime | None) -> Iterator[Rejected]:
        """The rejected callbacks that were not replayed, oldest first, streamed in portions."""
        table = rejected_callbacks
        columns = [table.c[field.name] for field in fields(Rejected) if field.name != "received_at"]
        query = select(*columns, table.c.first_at.label("received_at")).where(table.c.replayed_at.is_(None))
        if since is not None:
            query = query.where(table.c.last_at >= since)
        for portion in self._portions(query, table.c.id):
            yield from (Rejected(**row) for row in portion)

    def replay_due(self) -> bool:
        """Whether calls may still follow the rule of an older version."""
        with self._database.snapshot() as connection:
            return connection.scalar(select(due_replay.c.since)) is not None

    def unread(self, since: datetime | None) -> Iterator[list[StatusReport]]:
        """The reports with values that could not be read, in portions, oldest id first."""
        table = status_reports
        query = select(*REPORT_COLUMNS).where(table.c.unread.is_not(None))
        if since is not None:
            query = query.where(table.c.received_at >= since)
        for portion in self._portions(query, table.c.id):
            yield [stored_report(row) for row in portion]

    def _portions(self, query: Select[Any], key: Column[UUID]) -> Iterator[Sequence[RowMapping]]:
        """The rows in the order of their key, each portion in a transaction of its own."""
        page = query = query.order_by(key).limit(_PORTION)
        while True:
            with self._database.snapshot(limited=False) as connection:
                found = connection.execute(page).mappings().all()
            if found:
                yield found
            if len(found) < _PORTION:
                return
            page = query.where(key > found[-1][key.name])

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


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in row.items()}


def _plain_report(row: Mapping[Any, Any]) -> dict[str, Any]:
    return _plain_row(row) | {"payload": json.loads(row["payload"])}
