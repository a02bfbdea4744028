"""A circuit breaker: while the database takes no reports, they go straight to the spool."""

from __future__ import annotations

import logging
import threading

from webapp.support import metrics

log = logging.getLogger(__name__)


class CircuitBreaker:
    """Closed: reports go to the database. Open: they go to the spool, until a probe finds the database again."""

    def __init__(self, *, can_open: bool) -> None:
        """Begin closed. Without a spool it cannot open: every report tries the database."""
        self._can_open = can_open
        self._lock = threading.Lock()
        self.is_open = False
        metrics.BREAKER_OPEN.set(0)

    def open(self, problem: str) -> None:
        """Note that the database does not take reports, and why."""
        with self._lock:
            was_open, self.is_open = self.is_open, self._can_open
            metrics.BREAKER_OPEN.set(self.is_open)
        if not was_open:
            meanwhile = "are safe: they wait in the spool" if self._can_open else "are answered 503"
            log.error("the database is unavailable, callbacks %s (%s)", meanwhile, problem)

    def close(self) -> None:
        """Note that the database takes reports."""
        with self._lock:
            was_open, self.is_open = self.is_open, False
            metrics.BREAKER_OPEN.set(0)
        if was_open:
            log.warning("the database is available again, callbacks go there")
