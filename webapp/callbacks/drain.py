"""Drains the spool: stores in the database what waits there, and probes whether the database is back."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from webapp.callbacks import parsing
from webapp.callbacks.batch_writer import BATCH_SIZE, Batch
from webapp.callbacks.request import hide_phones
from webapp.callbacks.spool import SpoolError
from webapp.storage.errors import NotMigrated, Unavailable, WriteFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from webapp.callbacks.circuit_breaker import CircuitBreaker
    from webapp.callbacks.parsing import ParsedCallback
    from webapp.callbacks.request import CallbackRequest
    from webapp.callbacks.spool import Spool
    from webapp.callbacks.store import CallbackStore, StoreResult
    from webapp.storage.database import Database
    from webapp.support.token_redaction import TokenRedactor

log = logging.getLogger(__name__)
_PROBE_SECONDS = 1.0
_MOST_SUSPECTS = 1000


class Drain:
    """Moves callbacks from one spool to one database."""

    def __init__(
        self,
        spool: Spool,
        database: Database,
        store: CallbackStore,
        breaker: CircuitBreaker,
        redact: TokenRedactor,
    ) -> None:
        """Start nothing yet. ``redact`` takes callback tokens out of what reports say."""
        self._spool = spool
        self._database = database
        self._store = store
        self._breaker = breaker
        self._redact = redact
        self._suspects: dict[tuple[UUID, str], float] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.failed: dict[UUID, str] = {}
        """What the last run left in the spool because the database refuses it, and the database's words."""
        self._failed_before: dict[UUID, str] = {}

    def start(self) -> None:
        """Drain in the background from now on, once a second, and close the circuit when the database is back."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_until_ended, daemon=True, name="spool-drain")
                self._thread.start()

    def close(self) -> None:
        """End the background work."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def run(self) -> Iterator[int]:
        """Store all that waits, oldest first; gives how many are stored so far, after each portion.

        Gives nothing where another process drains already. Raises Unavailable and SpoolError. Callbacks that the
        database does not take stay in the spool, and those behind them are stored: those of a locked call until the
        next run, those with values that it refuses until they are rejected, see ``_reject_suspect``, and those that can
        be neither stored nor rejected until a person has removed the cause.
        """
        with self._spool.draining() as mine:
            if mine:
                yield from self._run()

    def _run(self) -> Iterator[int]:
        position, number, stored, complete = 0, BATCH_SIZE, 0, True
        last: UUID | None = None
        locked_calls: set[str] = set()
        self.failed, self._failed_before = {}, self.failed
        while found := self._spool.oldest(number, after=position):
            parsed = [(place, self._parse(request)) for place, request in found]
            # Each report of a locked call would wait for the lock anew, and delay all others.
            left = [place for place, callback in parsed if _is_about(callback, locked_calls)]
            portion = [(place, callback) for place, callback in parsed if not _is_about(callback, locked_calls)]
            try:
                results = self._store.write_batch(Batch([callback for _, callback in portion])) if portion else []
            except Unavailable as problem:
                # Raises unless the database takes writes. If it does, the cause is in this portion, and new callbacks
                # need not go to the spool.
                self._database.check()
                self._breaker.close()
                if len(portion) > 1:
                    number = max(1, len(found) // 4)
                    continue
                ((_, callback),) = portion
                results = [self._reject_suspect(callback, problem)]
            removable = []
            for (place, callback), result in zip(portion, results, strict=True):
                if isinstance(result, Exception):
                    self._note_failure(callback, result, locked_calls)
                    left.append(place)
                else:
                    removable.append(callback.request.id)
            complete = complete and not left
            position = max(left, default=position)
            last = found[-1][1].id
            if removable:
                try:
                    self._spool.remove(removable)
                except SpoolError:
                    position = found[-1][0]
                stored, number = stored + len(removable), min(number * 2, BATCH_SIZE)
                yield stored
        if complete:
            self._suspects.clear()
            if last:
                self._spool.delete_if_drained(last)

    def _note_failure(self, callback: ParsedCallback, error: Exception, locked_calls: set[str]) -> None:
        """Note why a callback stays in the spool."""
        identifier = callback.request.id
        if isinstance(error, WriteFailed):
            self.failed[identifier] = str(error)
        elif not isinstance(error, Unavailable):
            words = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
            self.failed[identifier] = words.splitlines()[0]
            if identifier not in self._failed_before:
                message = "a callback can be neither stored nor rejected, and stays in the spool: %s"
                log.error(message, identifier, exc_info=error)
        elif callback.report:
            locked_calls.add(callback.report.reference_id)

    def _parse(self, request: CallbackRequest) -> ParsedCallback:
        """Parse, and give the event loop back: some bodies take milliseconds."""
        callback = parsing.parse(hide_phones(request, self._database.phones), self._redact)
        time.sleep(0)
        return callback

    def _reject_suspect(self, callback: ParsedCallback, problem: Unavailable) -> StoreResult | Exception:
        """Keep a report that the database refuses as a rejected callback; the error where it stays in the spool.

        Neither an outage nor a trigger that refuses everything may look like a report that cannot be stored. So the
        error must be about the values, and come again in the same words after other reports were stored meanwhile.
        """
        if callback.report is None or not isinstance(problem, WriteFailed):
            return problem
        suspect = callback.request.id, str(problem)
        first = self._suspects.get(suspect)
        if first is None and len(self._suspects) < _MOST_SUSPECTS:
            self._suspects[suspect] = time.monotonic()
        if first is None or self._store.last_success < first:
            return problem
        reason = parsing.reason_for(problem)
        try:
            (result,) = self._store.write_batch(Batch([parsing.reject(callback.request, reason, self._redact)]))
        except Unavailable:
            return problem
        if not isinstance(result, Exception):
            del self._suspects[suspect]
            log.error("a report that the database refuses again and again is now in rejected_callbacks: %s", problem)
        return result

    def _run_until_ended(self) -> None:
        while not self._ended.is_set():
            self._run_once()
            self._ended.wait(_PROBE_SECONDS)

    def _run_once(self) -> None:
        stored = 0
        try:
            if self._breaker.is_open:
                self._database.check()
                self._breaker.close()
            for stored in self.run():  # noqa: B007 - the last number is logged
                # A stored portion proves as much as a probe, and a deep spool takes long.
                self._breaker.close()
        except (Unavailable, NotMigrated) as problem:
            self._breaker.open(str(problem))
        except SpoolError as problem:
            log.error("the spool cannot be drained: %s", problem)  # noqa: TRY400 - the message says all
        except Exception:
            log.exception("the spool cannot be drained; this is a bug")
        if stored:
            log.warning("%d callbacks that waited in the spool are stored now", stored)


def _is_about(callback: ParsedCallback, calls: set[str]) -> bool:
    return callback.report is not None and callback.report.reference_id in calls
