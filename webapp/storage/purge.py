"""Removes old calls with their history, and old rejected callbacks, a batch in each transaction."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, delete, func, or_, select, true

from webapp.esms.hide_phones import holds_number
from webapp.storage import bulk, rollups
from webapp.storage.filters import EVERY_CALL, CallFilter
from webapp.storage.models import calls, rejected_callbacks, status_reports
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

AT_ONCE = 500
"""Calls of one transaction: callbacks wait for its locks, on SQLite all of them."""
_LONGEST_PURGE_PAUSE_SECONDS = 0.1


class Purged(NamedTuple):
    """How many rows were removed, or would be."""

    calls: int = 0
    reports: int = 0
    rejected: int = 0


class Purge:
    """Removes what is older than a moment, or all that is about one phone number, from one database.

    Every batch is one transaction: it may be interrupted after any of them, and run again. Writers lock a call before
    they change it or its history, and so does this: a report is stored before its call goes, or makes a new one.
    """

    def __init__(
        self, database: Database, before: datetime | None, *, phone: str | None = None, keep_totals: bool
    ) -> None:
        """Remove calls placed before that moment, and rejected callbacks that came last before it.

        ``phone``: only calls to that number and rejected callbacks that hold it, however it is written, hashed or not;
        ``before`` None: of any age.
        """
        self._database = database
        self._phone, self._phones = phone, database.phones
        older = EVERY_CALL if phone is None else CallFilter(phone=phone).also_hashed(database.phones)
        self._calls = and_(*replace(older, until=before).conditions())
        self._rejected = true() if before is None else rejected_callbacks.c.last_at < before
        self._keep_totals = keep_totals
        self._pause_seconds = 0.0

    def count(self) -> Purged:
        """What there is to be removed."""
        of_calls = select(func.count(), func.coalesce(func.sum(calls.c.report_count), 0))
        rejected = select(func.count()).select_from(rejected_callbacks)
        with self._database.snapshot(limited=False) as connection:
            number, reports = connection.execute(of_calls.where(self._calls)).one()
            if self._phone is None:
                old = connection.scalar(rejected.where(self._rejected)) or 0
            else:
                old = sum(1 for _ in self._rejected_about_the_phone(connection))
        return Purged(number, reports, old)

    def remove_calls(self, now: datetime) -> Purged:
        """Remove the oldest calls of those that are left, ``AT_ONCE`` at the most; none: no more can be removed.

        A call that a reconcile run asks about at this moment, or that another transaction changes, stays.
        """
        # On SQLite, writers try the lock now and then: without a pause the next transaction would always take it first.
        time.sleep(self._pause_seconds if self._database.is_sqlite else 0)
        began = time.monotonic()
        purged = self._remove_calls(now)
        self._pause_seconds = min(time.monotonic() - began, _LONGEST_PURGE_PAUSE_SECONDS)
        return purged

    @retrying
    def _remove_calls(self, now: datetime) -> Purged:
        free = or_(calls.c.claimed_until.is_(None), calls.c.claimed_until <= now)
        oldest = select(calls.c.reference_id, calls.c.placed_at).where(self._calls, free)
        oldest = oldest.order_by(calls.c.placed_at, calls.c.reference_id).limit(AT_ONCE)
        with self._database.transaction() as connection:
            found = connection.execute(oldest.with_for_update(skip_locked=True)).all()
            if not found:
                return Purged()
            names = [row.reference_id for row in found]
            if self._keep_totals:
                rollups.keep_totals(connection, names)
            rollups.mark(connection, (row.placed_at for row in found), now)
            history = delete(status_reports).where(bulk.is_one_of(connection, status_reports.c.reference_id, names))
            reports = connection.execute(history).rowcount
            connection.execute(delete(calls).where(bulk.is_one_of(connection, calls.c.reference_id, names)))
        return Purged(len(names), reports)

    @retrying
    def remove_rejected(self) -> Purged:
        """Remove some of the rejected callbacks, ``AT_ONCE`` at the most."""
        some = select(rejected_callbacks.c.id).where(self._rejected).limit(AT_ONCE)
        with self._database.transaction() as connection:
            if self._phone is None:
                old = list(connection.scalars(some.with_for_update(skip_locked=True)))
            else:
                old = list(islice(self._rejected_about_the_phone(connection), AT_ONCE))
            if old:
                connection.execute(
                    delete(rejected_callbacks).where(bulk.is_one_of(connection, rejected_callbacks.c.id, old))
                )
        return Purged(rejected=len(old))

    def _rejected_about_the_phone(self, connection: Connection) -> Iterator[UUID]:
        columns = select(rejected_callbacks.c.id, rejected_callbacks.c.payload).where(self._rejected)
        with connection.execute(columns, execution_options={"yield_per": 100}) as rows:
            for row in rows:
                if holds_number(row.payload, self._phone or "", self._phones):
                    yield row.id
