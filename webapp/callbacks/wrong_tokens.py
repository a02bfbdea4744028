"""Counts requests with a wrong token in memory, and adds them to the database every two seconds."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from webapp.storage import wrong_tokens
from webapp.storage.errors import Unavailable
from webapp.storage.retry import retrying
from webapp.storage.wrong_tokens import HourCount
from webapp.support import metrics

if TYPE_CHECKING:
    from webapp.storage.database import Database

_PAUSE_SECONDS = 2.0
_MOST_HOURS = 1000

log = logging.getLogger(__name__)


class WrongTokenCounter:
    """Counts for one process. A flood of wrong tokens costs one small transaction every 2 seconds.

    While the database is away the counts wait in memory, and are lost with the process.
    """

    def __init__(self, database: Database) -> None:
        """Start nothing yet: the process may still fork."""
        self._database = database
        self._lock = threading.Lock()
        self._pending: dict[datetime, HourCount] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def count(self) -> None:
        """Count one request."""
        metrics.WRONG_TOKENS.inc()
        one = HourCount.of_one(datetime.now(UTC))
        with self._lock:
            self._add([one])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="wrong-tokens")
                self._thread.start()

    def close(self) -> None:
        """Store what was counted, as far as the database takes it."""
        self._closed.set()
        if thread := self._thread:
            thread.join(_PAUSE_SECONDS)
        self._store()

    def _run(self) -> None:
        while True:
            self._store()
            if self._closed.wait(_PAUSE_SECONDS):
                return
            with self._lock:
                if not self._pending:
                    self._thread = None
                    return

    def _store(self) -> None:
        with self._lock:
            counts, self._pending = list(self._pending.values()), {}
        if not counts:
            return
        try:
            self._write(counts)
        except Unavailable as problem:
            log.warning("requests with a wrong token are not counted in the database now: %s", problem)
            with self._lock:
                self._add(counts)

    @retrying
    def _write(self, counts: list[HourCount]) -> None:
        with self._database.transaction() as connection:
            wrong_tokens.add(connection, counts, datetime.now(UTC))

    def _add(self, counts: list[HourCount]) -> None:
        for one in counts:
            before = self._pending.get(one.hour)
            if before or len(self._pending) < _MOST_HOURS:
                self._pending[one.hour] = before.plus(one) if before else one
