"""Stores parsed callbacks in the database: reports with their effect, everything else as rejected callbacks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from webapp.callbacks import parsing, reasons
from webapp.callbacks.batch_writer import Batch, BatchWriter
from webapp.callbacks.parsing import ParsedCallback
from webapp.callbacks.request import redacted_decoded
from webapp.esms.stored import other_channel_of
from webapp.storage import writer
from webapp.storage.errors import Unavailable
from webapp.storage.rejected import OTHER_CHANNEL, RejectedCallbacks
from webapp.storage.retry import retrying
from webapp.storage.writer import Expected
from webapp.support import log_context, metrics
from webapp.support.token_redaction import NO_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from sqlalchemy.engine import Connection

    from webapp.calls.report import Effect, StatusReport
    from webapp.storage.database import Database
    from webapp.storage.rejected import Rejected
    from webapp.support.token_redaction import TokenRedactor

_ENOUGH_TO_GUESS = 4
"""Reports in a batch. A wrong guess costs a transaction: with fewer reports that is more than a right one saves."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A report that is durable. ``result`` is the effect of storing it, or ``spooled``."""

    result: str
    reference_id: str


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """A callback that is no report, and is kept. ``reason`` is fit for its sender."""

    reason: str


@dataclass(frozen=True, slots=True)
class OtherChannel:
    """A message of another channel (SMS, Viber, Zalo), which is no call, and is kept."""

    type_id: str


StoreResult = Accepted | NotAccepted | OtherChannel


class CallbackStore(BatchWriter[ParsedCallback, StoreResult]):
    """Stores callbacks, each batch in one transaction."""

    def __init__(self, database: Database, redact: TokenRedactor = NO_TOKENS) -> None:
        """Write to ``database``. ``redact`` takes callback tokens out of what is rejected."""
        super().__init__()
        self._database = database
        self._redact = redact
        self._rejected = RejectedCallbacks()
        self._all_absent = False
        self.last_success = 0.0
        """When the newest transaction began that stored reports, by the monotonic clock."""

    def write_batch(self, batch: Batch[ParsedCallback, StoreResult]) -> Sequence[StoreResult | Exception]:
        """Store a batch; raises Unavailable, and then the whole batch may be stored again.

        A report that the database refuses fails the whole transaction. It is found by halving, and rejected. If that
        fails too, its result is the error, and the others of the batch are stored.
        """
        try:
            return self._store_together(batch)
        except Unavailable:
            raise
        except Exception as error:
            if not batch.items:
                raise
            # A bug in the rule must not lose the report either.
            return self._store_in_halves(batch.items, error)

    @retrying
    def _store_together(self, batch: Batch[ParsedCallback, StoreResult]) -> Sequence[StoreResult]:
        began = time.monotonic()
        guess = not batch.items  # What just came is collected below. What is there already is stored once more.
        with self._database.transaction() as connection:
            batch.collect()
            channels = _other_channels(connection, batch.items)
            reports = [one.report for one in batch.items if one.report and one.request.id not in channels]
            effects = iter(self._record(connection, reports, guess=guess) if reports else ())
            if len(reports) < len(batch.items):
                others = (one for one in batch.items if not one.report or one.request.id in channels)
                kept = [_rejected(one, channels.get(one.request.id), self._redact) for one in others]
                self._rejected.keep(connection, kept)
            done_at = time.monotonic()
        _count(batch.items, began, done_at)
        if reports:
            self.last_success = max(self.last_success, began)
        return [_result(one, channels.get(one.request.id), effects) for one in batch.items]

    def _record(self, connection: Connection, reports: Sequence[StatusReport], *, guess: bool) -> list[Effect]:
        """``guess``: the reports just came, so they are new, and so are their calls if those of the last batch were."""
        all_absent = guess and self._all_absent and len(reports) >= _ENOUGH_TO_GUESS
        self._all_absent = False
        expected = Expected(calls_absent=all_absent, reports_new=guess)
        effects, self._all_absent = writer.record(connection, reports, datetime.now(UTC), expected)
        return effects

    def _store_in_halves(self, callbacks: list[ParsedCallback], error: Exception) -> Sequence[StoreResult | Exception]:
        if len(callbacks) == 1:
            return [self._reject(callbacks[0], error)]
        half = len(callbacks) // 2
        return [*self.write_batch(Batch(callbacks[:half])), *self.write_batch(Batch(callbacks[half:]))]

    def _reject(self, callback: ParsedCallback, error: Exception) -> StoreResult | Exception:
        """Keep a callback as a rejected one; the error where that fails too."""
        if callback.report is None:
            return error
        with log_context.on_behalf_of(callback.context):
            reason = parsing.reason_for(error)
        rejected = replace(parsing.reject(callback.request, reason, self._redact), context=callback.context)
        try:
            (result,) = self._store_together(Batch([rejected]))
        except Unavailable:
            raise
        except Exception as another:  # noqa: BLE001 - whatever it is, the callback is not kept yet
            return another
        return result


def _count(callbacks: Sequence[ParsedCallback], began: float, done_at: float) -> None:
    """Count a batch that is committed; ``done_at``: when all but the commit was done."""
    if not callbacks:
        return
    now = time.monotonic()
    metrics.BATCH_REPORTS.observe(len(callbacks))
    metrics.BATCH_SECONDS.observe(now - began)
    metrics.COMMIT_SECONDS.observe(now - done_at)
    for one in callbacks:
        if one.report is None:
            reasons.count_rejected(one.reason)


def _other_channels(connection: Connection, callbacks: Sequence[ParsedCallback]) -> dict[UUID, str]:
    """TypeId by request id of the callbacks about messages of other channels, with an id that was not registered."""
    found = {one.report: type_id for one in callbacks if one.report and (type_id := other_channel_of(one.report))}
    if not found:
        return {}
    registered = writer.registered(connection, {report.reference_id for report in found})
    return {report.id: type_id for report, type_id in found.items() if report.reference_id not in registered}


def _rejected(callback: ParsedCallback, type_id: str | None, redact: TokenRedactor) -> Rejected:
    if callback.rejected:
        return callback.rejected
    return parsing.rejected(redacted_decoded(callback.request, redact), f"{OTHER_CHANNEL}{type_id}")


def _result(callback: ParsedCallback, type_id: str | None, effects: Iterator[Effect]) -> StoreResult:
    if type_id:
        return OtherChannel(type_id)
    if callback.report is None:
        return NotAccepted(callback.reason)
    return Accepted(next(effects), callback.report.reference_id)
