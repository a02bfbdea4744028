"""Makes callbacks durable: in the database, or in the spool while the database does not take them in time.

A report has its id from its receipt, and storing it again does nothing. So what is in doubt is spooled as well.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from webapp.callbacks import parsing
from webapp.callbacks.batch_writer import Batch, BatchWriter, Overloaded, TooLate
from webapp.callbacks.circuit_breaker import CircuitBreaker
from webapp.callbacks.drain import Drain
from webapp.callbacks.request import CallbackRequest, hide_phones
from webapp.callbacks.spool import SpoolError
from webapp.callbacks.store import Accepted, CallbackStore, NotAccepted
from webapp.esms.parameters import KNOWN_PARAMETERS
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support import metrics
from webapp.support.token_redaction import NO_TOKENS
from webapp.support.yield_to_others import others_first

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from webapp.callbacks.spool import Spool
    from webapp.callbacks.store import StoreResult
    from webapp.storage.database import Database
    from webapp.support.token_redaction import TokenRedactor

log = logging.getLogger(__name__)

_DATABASE_SHARE, _SPOOL_SHARE = 0.4, 2 / 3
"""Parts of what is left of ANSWER_WITHIN: for the database, and then for the spool. The rest is for everything else."""
_LARGE = 4096
"""Bytes of a request from which parsing it may take milliseconds, up to 20 for a body of 64 KiB."""


class Ingest:
    """Stores callbacks in one database, or in one spool (None: there is none)."""

    def __init__(
        self,
        database: Database,
        spool: Spool | None,
        answer_within: timedelta,
        redact: TokenRedactor = NO_TOKENS,
    ) -> None:
        """Start nothing yet. ``redact`` takes callback tokens out of what is stored."""
        self._database = database
        self._spool = spool
        self._redact = redact
        self.answer_seconds = answer_within.total_seconds()
        self._parsing_large = threading.Lock()
        self._store = CallbackStore(database, redact)
        self._breaker = CircuitBreaker(can_open=spool is not None)
        self._spool_writer = _SpoolWriter(spool) if spool else None
        self.drain = Drain(spool, database, self._store, self._breaker, redact) if spool else None

    def receive(self, request: CallbackRequest, began: float | None = None) -> StoreResult:
        """The outcome of a callback, once it is durable; raises Unavailable if neither place takes it in time.

        ``began`` is when the request began to come, by the monotonic clock (None: now). What cannot be stored for any
        other reason is spooled, too: no error loses a callback.
        """
        began = time.monotonic() if began is None else began
        try:
            is_large = len(request.query) + len(request.body) >= _LARGE
            with others_first(self._parsing_large, self._left(began) * _DATABASE_SHARE) if is_large else nullcontext():
                request = hide_phones(request, self._database.phones)
                callback = parsing.parse(request, self._redact)
        except MemoryError:
            self._spool_request(request, began)
            return Accepted("spooled", "(not read: out of memory)")
        except TimeoutError:
            raise Overloaded(f"too many requests of over {_LARGE // 1024} KiB came at once") from None
        if callback.report and callback.context:
            callback.context.reference_id = callback.report.reference_id
        if callback.report and callback.report.unread:
            _count_unread(callback.report.unread)
        if not self._breaker.is_open:
            seconds = self._left(began) * _DATABASE_SHARE
            try:
                return self._store.write(callback, seconds)
            except Overloaded:
                raise
            except Unavailable as problem:
                self._breaker.open(str(problem))
            except TooLate:
                self._breaker.open(f"{self._database.name}: no answer in {seconds:.1f} s")
            except Exception:
                log.exception("a callback could be neither stored nor rejected, and goes to the spool: %s", request.id)
        self._spool_request(callback.request, began)
        return Accepted("spooled", callback.report.reference_id) if callback.report else NotAccepted(callback.reason)

    def start(self) -> None:
        """Use the database only if it is there and at the right migration, and drain the spool from now on."""
        try:
            self._database.check()
        except (Unavailable, NotMigrated) as problem:
            self._breaker.open(str(problem))
        except Exception as problem:
            log.exception("the database cannot be checked")
            self._breaker.open(type(problem).__name__)
        if self.drain:
            self.drain.start()

    def close(self) -> None:
        """End the background work, and close the connections that are not in use."""
        if self.drain:
            self.drain.close()
        self._database.close()
        if self._spool:
            self._spool.close()

    def _left(self, began: float) -> float:
        """The seconds until a callback that began then has to be answered."""
        return max(0.0, self.answer_seconds - (time.monotonic() - began))

    def _spool_request(self, request: CallbackRequest, began: float) -> None:
        if self._spool_writer is None or self.drain is None:
            raise Unavailable(f"{self._database.name} cannot take reports now, and the spool is off")
        try:
            self._spool_writer.write(request, self._left(began) * _SPOOL_SHARE)
        except SpoolError as problem:
            raise Unavailable(f"neither the database nor the spool can take a report: {problem}") from problem
        except TooLate:
            raise Unavailable("neither the database nor the spool took a report in time") from None
        finally:
            self.drain.start()


def _count_unread(names: str) -> None:
    for name in names.split(","):
        metrics.UNREAD.labels(name if name in KNOWN_PARAMETERS else "other").inc()


class _SpoolWriter(BatchWriter[CallbackRequest, None]):
    """Writes requests to the spool, many in one transaction."""

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._spool = spool

    def write_batch(self, batch: Batch[CallbackRequest, None]) -> Sequence[None]:
        batch.collect()
        if batch.items:
            self._spool.append(batch.items)
        return [None] * len(batch.items)
