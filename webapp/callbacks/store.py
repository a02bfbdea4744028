"""Stores parsed callbacks in the database: reports with their effect, everything else as rejected callbacks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from webapp.callbacks import parsing
from webapp.callbacks.batch_writer import Batch, BatchWriter
from webapp.callbacks.parsing import ParsedCallback
from webapp.storage import writer
from webapp.storage.errors import Unavailable
from webapp.storage.rejected import RejectedCallbacks
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Sequence

    from webapp.storage.database import Database


@dataclass(frozen=True, slots=True)
class Accepted:
    """A report that is durable. ``result`` is the effect of storing it, or ``spooled``."""

    result: str
    reference_id: str


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """A callback that is no report, and is kept. ``reason`` is fit for its sender."""

    reason: str


StoreResult = Accepted | NotAccepted


class CallbackStore(BatchWriter[ParsedCallback, StoreResult]):
    """Stores callbacks, each batch in one transaction."""

    def __init__(self, database: Database) -> None:
        """Write to ``database``."""
        super().__init__()
        self._database = database
        self._rejected = RejectedCallbacks()
        self.last_success = 0.0
        """When the newest transaction began that stored reports, by the monotonic clock."""

    def write_batch(self, batch: Batch[ParsedCallback, StoreResult]) -> Sequence[StoreResult]:
        """Store a batch; raises Unavailable, with nothing stored.

        A report that the database refuses fails the whole transaction. It is found by halving, and rejected.
        """
        try:
            return self._store_together(batch)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in the rule must not lose the report either
            return self._store_in_halves(batch.items, error)

    @retrying
    def _store_together(self, batch: Batch[ParsedCallback, StoreResult]) -> Sequence[StoreResult]:
        began = time.monotonic()
        with self._database.transaction() as connection:
            batch.collect()
            reports = [callback.report for callback in batch.items if callback.report]
            effects = iter(writer.record(connection, reports, datetime.now(UTC)) if reports else ())
            if len(reports) < len(batch.items):
                others = (callback for callback in batch.items if not callback.report)
                self._rejected.keep(connection, [parsing.rejected(one.request, one.reason) for one in others])
        if reports:
            self.last_success = max(self.last_success, began)
        return [
            Accepted(next(effects), callback.report.reference_id) if callback.report else NotAccepted(callback.reason)
            for callback in batch.items
        ]

    def _store_in_halves(self, callbacks: list[ParsedCallback], error: Exception) -> Sequence[StoreResult]:
        if len(callbacks) <= 1:
            if not callbacks or callbacks[0].report is None:
                raise error
            return self.write_batch(Batch([replace(callbacks[0], report=None, reason=parsing.reason_for(error))]))
        half = len(callbacks) // 2
        return [*self.write_batch(Batch(callbacks[:half])), *self.write_batch(Batch(callbacks[half:]))]
