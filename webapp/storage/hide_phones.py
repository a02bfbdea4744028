"""Hides phone numbers that were stored plain, as PHONE_STORAGE says now, a portion in each transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, select, update

from webapp.calls.phone import e164
from webapp.esms.hide_phones import hide_in_payload
from webapp.storage import bulk
from webapp.storage.models import calls, rejected_callbacks, status_reports
from webapp.storage.rejected import Rejected, hide_in_rejected, stored_sha256, stored_size
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

_ROWS_AT_ONCE = 200


class Hidden(NamedTuple):
    """How many rows held a number that was hidden, or would be."""

    calls: int = 0
    reports: int = 0
    rejected: int = 0

    def plus(self, other: Hidden) -> Hidden:
        """Both together."""
        return Hidden(*(mine + its for mine, its in zip(self, other, strict=True)))


class Hiding:
    """Hides the numbers in one database; with ``check_only`` it only counts. Safe to interrupt, and to run again."""

    def __init__(self, database: Database, *, check_only: bool) -> None:
        """Work on ``database``, as its ``phones`` say."""
        self._database = database
        self._phones = database.phones
        self._check_only = check_only

    def _connection(self) -> AbstractContextManager[Connection]:
        return self._database.snapshot(limited=False) if self._check_only else self._database.transaction()

    @retrying
    def in_calls(self, reference_ids: Collection[str], now: datetime) -> Hidden:
        """Hide the numbers of these calls, and in their reports."""
        with self._connection() as connection:
            hidden_calls = self._calls(connection, reference_ids, now)
            hidden_reports = self._reports(connection, reference_ids)
            if not self._check_only:
                if hidden_calls:
                    bulk.update(connection, calls, hidden_calls)
                if hidden_reports:
                    bulk.update(connection, status_reports, hidden_reports)
        return Hidden(len(hidden_calls), len(hidden_reports))

    def _calls(self, connection: Connection, reference_ids: Collection[str], now: datetime) -> list[dict[str, Any]]:
        query = select(calls.c.reference_id, calls.c.phone).where(
            bulk.is_one_of(connection, calls.c.reference_id, reference_ids), calls.c.phone.is_not(None)
        )
        if not self._check_only:
            query = query.order_by(calls.c.reference_id).with_for_update()
        changed = []
        for row in connection.execute(query):
            if (phone := self._phones.stored(row.phone)) != row.phone:
                of_phone = {"phone": phone, "phone_e164": e164(phone), "updated_at": now}
                changed.append({**of_phone, "reference_id": row.reference_id})
        return changed

    def _reports(self, connection: Connection, reference_ids: Collection[str]) -> list[dict[str, Any]]:
        columns = select(status_reports.c.id, status_reports.c.phone, status_reports.c.payload)
        of_these = bulk.is_one_of(connection, status_reports.c.reference_id, reference_ids)
        changed = []
        for row in connection.execute(columns.where(of_these)):
            phone, payload = self._phones.stored(row.phone), hide_in_payload(row.payload, self._phones)
            if (phone, payload) != (row.phone, row.payload):
                changed.append({"phone": phone, "payload": payload, "id": row.id})
        return changed

    def in_rejected(self) -> Iterator[Hidden]:
        """Hide the numbers in rejected callbacks, a portion at a time."""
        last: UUID | None = None
        while True:
            last, hidden = self._some_rejected(last)
            if last is None:
                return
            yield hidden

    @retrying
    def _some_rejected(self, after: UUID | None) -> tuple[UUID | None, Hidden]:
        query = select(rejected_callbacks).order_by(rejected_callbacks.c.id).limit(_ROWS_AT_ONCE)
        if after is not None:
            query = query.where(rejected_callbacks.c.id > after)
        hidden = 0
        with self._connection() as connection:
            rows = connection.execute(query if self._check_only else query.with_for_update()).mappings().all()
            for row in rows:
                before = Rejected(**{name: row[name] for name in _FIELDS}, received_at=row["first_at"])
                after_hiding = hide_in_rejected(before, self._phones)
                if after_hiding.payload != before.payload:
                    hidden += 1
                    if not self._check_only:
                        _replace_payload(connection, row, after_hiding.payload)
        return (rows[-1]["id"] if rows else None), Hidden(rejected=hidden)


_FIELDS = ("id", "remote_addr", "method", "content_type", "payload", "reason")


def _replace_payload(connection: Connection, row: Any, payload: str) -> None:
    """Give a rejected callback this payload; one that is the same then as another is counted to that one."""
    table, sha256 = rejected_callbacks.c, stored_sha256(payload)
    same = (table.method == row["method"], table.reason == row["reason"], table.payload_sha256 == sha256)
    counted = update(rejected_callbacks).where(*same).values(count=table.count + row["count"])
    if connection.execute(counted).rowcount:
        connection.execute(delete(rejected_callbacks).where(table.id == row["id"]))
        return
    values = {"payload": payload, "payload_sha256": sha256, "size": stored_size(payload)}
    connection.execute(update(rejected_callbacks).where(table.id == row["id"]).values(**values))
