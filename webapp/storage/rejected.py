"""Keeps what reached the callback URL and could not be read, within a limit of bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import and_, case, delete, func, select, update

from webapp.esms import callback as esms_callback
from webapp.esms.hide_phones import hide_in_request
from webapp.storage import bulk
from webapp.storage.models import rejected_callbacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.engine import Connection

    from webapp.calls.phone import PhoneStorage

OTHER_CHANNEL = "other channel: TypeId "
"""How the reason begins of a message of another channel, which is no call and no cause for alarm."""
LIMIT_BYTES = 256 * 1024 * 1024
"""Bytes of payload that ``rejected_callbacks`` holds, at most."""
STEP_BYTES = 1024 * 1024
"""Bytes that a process may add before it sums up again: a sum reads the whole table."""
_FIRST_FEW = 10
"""Rows of each reason that are removed last."""
SPARE_BYTES = 16 * STEP_BYTES
"""Bytes that stay free after rows were removed, for what as many processes add meanwhile."""
ROW_OVERHEAD_BYTES = 512
"""Bytes that each row counts besides its payload, so that small ones are limited in number too."""


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


class RejectedCallbacks:
    """Writes rejected callbacks for one process, and counts what it added since the last sum."""

    def __init__(self) -> None:
        """The first callback that is kept sums up."""
        self._added_bytes = STEP_BYTES

    def keep(self, connection: Connection, rejected: Sequence[Rejected]) -> None:
        """Keep them; the same method, payload and reason again only counts. One whose id is stored already is skipped.

        Removes rows when the limit is near: see ``_least_needed_first``.
        """
        stored = set(
            connection.scalars(
                select(rejected_callbacks.c.id).where(
                    bulk.is_one_of(connection, rejected_callbacks.c.id, [one.id for one in rejected])
                )
            )
        )
        # In one order for all processes, or two of them could lock each other out.
        new = sorted((one for one in rejected if one.id not in stored), key=lambda one: (one.payload, one.reason))
        added = sum(_insert_or_count(connection, one) for one in new)
        # Counted before the commit: one that fails only makes the next sum come earlier.
        self._added_bytes += added
        if added and self._added_bytes >= STEP_BYTES:
            _free_space(connection)
            self._added_bytes = 0


def stored_size(payload: str) -> int:
    """Bytes that a row counts."""
    return len(payload.encode()) + ROW_OVERHEAD_BYTES


def stored_sha256(payload: str) -> str:
    """By which the same payload is known again."""
    return hashlib.sha256(payload.encode()).hexdigest()


def hide_in_rejected(rejected: Rejected, phones: PhoneStorage) -> Rejected:
    """The rejected callback with its phone numbers hidden; that of another channel, too."""
    if phones.is_plain:
        return rejected
    query, body, whole = esms_callback.kept_request(rejected.payload)
    hidden = hide_in_request(query, body, phones)
    if hidden == (query, body):
        return rejected
    return replace(rejected, payload=esms_callback.storable_request(*hidden, whole=whole))


def mark_replayed(connection: Connection, identifier: UUID, now: datetime) -> None:
    """Note that a rejected callback became a report."""
    connection.execute(update(rejected_callbacks).where(rejected_callbacks.c.id == identifier).values(replayed_at=now))


def _insert_or_count(connection: Connection, rejected: Rejected) -> int:
    """How many bytes were added; 0 if the same is there already."""
    dialect = connection.dialect.name
    size = stored_size(rejected.payload)
    statement = bulk.insert_of(rejected_callbacks, dialect)
    statement = statement.values(
        id=rejected.id,
        first_at=rejected.received_at,
        last_at=rejected.received_at,
        remote_addr=rejected.remote_addr,
        method=rejected.method,
        content_type=rejected.content_type,
        payload=rejected.payload,
        payload_sha256=stored_sha256(rejected.payload),
        size=size,
        reason=rejected.reason,
        count=1,
    )
    again = {
        # The same id is the same callback: a drain in another process may store it at this moment.
        "count": rejected_callbacks.c.count + case((rejected_callbacks.c.id == statement.excluded.id, 0), else_=1),
        "replayed_at": None,
        "dismissed_at": None,
        "last_at": bulk.greatest(dialect)(rejected_callbacks.c.last_at, statement.excluded.last_at),
    }
    key = ["method", "payload_sha256", "reason"]
    upsert = statement.on_conflict_do_update(index_elements=key, set_=again).returning(rejected_callbacks.c.id)
    return size if connection.scalar(upsert) == rejected.id else 0


def _least_needed_first() -> Select[tuple[UUID, int]]:
    """Replayed ones, then messages of other channels, then the oldest of the most frequent reason.

    The first few of every reason come last: they stay, whatever floods in.
    """
    table = rejected_callbacks
    ranked = select(
        table.c.id,
        table.c.size,
        table.c.first_at,
        table.c.replayed_at.is_(None).label("not_replayed"),
        (~is_other_channel()).label("not_other_channel"),
        (func.row_number().over(partition_by=table.c.reason, order_by=table.c.first_at) <= _FIRST_FEW).label(
            "first_few"
        ),
        func.count().over(partition_by=table.c.reason).label("frequency"),
    ).subquery()
    order = (
        ranked.c.not_replayed,
        ranked.c.not_other_channel,
        ranked.c.first_few,
        ranked.c.frequency.desc(),
        ranked.c.first_at,
    )
    return select(ranked.c.id, ranked.c.size).order_by(*order)


def is_other_channel() -> ColumnElement[bool]:
    """Whether a row is a message of another channel."""
    return rejected_callbacks.c.reason.startswith(OTHER_CHANNEL)


def to_see_to() -> ColumnElement[bool]:
    """Whether a row needs a person: neither replayed nor dismissed, and no message of another channel."""
    table = rejected_callbacks
    return and_(table.c.replayed_at.is_(None), table.c.dismissed_at.is_(None), ~is_other_channel())


def _free_space(connection: Connection) -> None:
    # Rows that other programs copied in have no size: a column that only we write.
    measured = update(rejected_callbacks).where(rejected_callbacks.c.size == 0)
    connection.execute(measured.values(size=func.length(rejected_callbacks.c.payload) + ROW_OVERHEAD_BYTES))
    excess = (connection.scalar(select(func.sum(rejected_callbacks.c.size))) or 0) - LIMIT_BYTES + SPARE_BYTES
    if excess <= 0:
        return
    dropped = []
    with connection.execute(_least_needed_first(), execution_options={"yield_per": 100}) as rows:
        while excess > 0 and (row := rows.fetchone()):
            dropped.append(row.id)
            excess -= row.size
    connection.execute(delete(rejected_callbacks).where(rejected_callbacks.c.id.in_(dropped)))
