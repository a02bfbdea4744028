"""Counts requests to the callback URL by their token in memory, and adds them to the database now and then."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from webapp.storage import token_counts
from webapp.storage.errors import Unavailable
from webapp.storage.retry import retrying
from webapp.storage.token_counts import NOT_ALLOWED_ADDRESS, WRONG_TOKEN, HourCount
from webapp.support import metrics
from webapp.support.tokens import ending

if TYPE_CHECKING:
    from webapp.storage.database import Database

_WRITE_PAUSE_SECONDS = 2.0
RIGHT_PAUSE_SECONDS = 60.0
_MOST_PENDING = 1000

log = logging.getLogger(__name__)


class TokenCounter:
    """Counts for one process. Wrong tokens cost at most one small transaction every 2 seconds, right ones one a minute.

    While the database is away the counts wait in memory, and are lost with the process.
    """

    def __init__(self, database: Database) -> None:
        """Start nothing yet: the process may still fork."""
        self._database = database
        self._right_due_at: float | None = None
        self._lock = threading.Lock()
        self._pending: dict[tuple[int, str], tuple[int, float]] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def count_wrong(self) -> None:
        """Count a request with a wrong token."""
        metrics.WRONG_TOKENS.inc()
        self._count(WRONG_TOKEN)

    def count_not_allowed(self) -> None:
        """Count a request with a right token from an address that is not allowed."""
        metrics.NOT_ALLOWED.inc()
        self._count(NOT_ALLOWED_ADDRESS)

    def count_right(self, token: str) -> None:
        """Count a request with this token."""
        if self._right_due_at is None:
            self._right_due_at = time.monotonic() + RIGHT_PAUSE_SECONDS
        self._count(ending(token))

    def _count(self, token_ending: str) -> None:
        now = time.time()
        with self._lock:
            self._add((int(now // 3600), token_ending), 1, now)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="token-counter")
                self._thread.start()

    def close(self) -> None:
        """Store what was counted, as far as the database takes it."""
        self._closed.set()
        if thread := self._thread:
            thread.join(_WRITE_PAUSE_SECONDS)
        self._store(everything=True)

    def _run(self) -> None:
        while True:
            self._store()
            if self._closed.wait(_WRITE_PAUSE_SECONDS):
                return
            with self._lock:
                if not self._pending:
                    self._thread = None
                    return

    def _store(self, *, everything: bool = False) -> None:
        due_at = self._right_due_at
        right_too = everything or (due_at is not None and time.monotonic() >= due_at)
        with self._lock:
            if right_too:
                self._right_due_at = None
            counts = {
                key: count
                for key, count in self._pending.items()
                if right_too or key[1] in {WRONG_TOKEN, NOT_ALLOWED_ADDRESS}
            }
            self._pending = {key: count for key, count in self._pending.items() if key not in counts}
        if not counts:
            return
        try:
            self._write(
                [
                    HourCount(datetime.fromtimestamp(hour * 3600, UTC), number, datetime.fromtimestamp(last, UTC), ends)
                    for (hour, ends), (number, last) in counts.items()
                ]
            )
        except Unavailable as problem:
            log.warning("the requests with each token are not counted in the database now: %s", problem)
            with self._lock:
                self._right_due_at = time.monotonic() + RIGHT_PAUSE_SECONDS
                for key, (number, last) in counts.items():
                    self._add(key, number, last)

    @retrying
    def _write(self, counts: list[HourCount]) -> None:
        with self._database.transaction() as connection:
            token_counts.add(connection, counts, datetime.now(UTC))

    def _add(self, key: tuple[int, str], number: int, last: float) -> None:
        before = self._pending.get(key)
        if before:
            self._pending[key] = before[0] + number, max(before[1], last)
        elif len(self._pending) < _MOST_PENDING:
            self._pending[key] = number, last
