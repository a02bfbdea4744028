"""Lets look-ups leave one by one, so that all runs together keep RECONCILE_RATE.

Each look-up leaves in a slot of its own. Slots are reserved in the database, which all runs share, a few at a time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

from webapp.storage import lookup_rate
from webapp.storage.lookup_rate import SLACK

if TYPE_CHECKING:
    from webapp.storage.database import Database

_LONGEST_DELAY_SECONDS = (SLACK - 1) / 3
"""A look-up that misses its slot by more leaves in a later one: the distances between slots are what keeps the rate."""
_LONGEST_LEAD_SECONDS = 5.0


class RateLimiter:
    """The slots in which the look-ups of one run leave; used by many threads."""

    def __init__(self, database: Database, rate: int, batch: int) -> None:
        """``rate`` is look-ups a second of all runs together; ``batch`` is how many slots one transaction reserves."""
        self._database = database
        self._rate = rate
        self._batch = batch
        self._slots: deque[float] = deque()
        self._slowdowns = 0
        self._reserved_in_seconds = 0.0
        self._changed = threading.Condition()
        self._reserving = threading.Lock()
        self._closed = False

    def wait(self) -> bool:
        """Return True when a look-up may leave, False once this is closed. Raises ``Unavailable``."""
        while not self._closed:
            with self._changed:
                slot, slowdowns = self._next_slot(), self._slowdowns
            if slot is None:
                self._reserve()
            elif self._sleep_until(slot, slowdowns):
                return True
        return False

    def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
        """Halve the rate, or pause, for all runs; slots that this run has reserved before are void."""
        lookup_rate.slow_down(self._database, pause_seconds, halve=halve)
        self._void()

    def close(self) -> None:
        """Let no look-up leave any more; threads that wait for a slot return."""
        self._closed = True
        self._void()

    def _next_slot(self) -> float | None:
        """The first slot that is not over; None if more have to be reserved."""
        over = time.monotonic() - _LONGEST_DELAY_SECONDS
        while self._slots:
            slot = self._slots.popleft()
            if slot > over:
                return slot
        return None

    def _sleep_until(self, slot: float, slowdowns: int) -> bool:
        """Sleep until the slot; False if it was void by then, or missed."""
        with self._changed:
            while self._slowdowns == slowdowns and (left := slot - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._slowdowns == slowdowns and time.monotonic() - slot < _LONGEST_DELAY_SECONDS

    def _reserve(self) -> None:
        with self._reserving:
            if self._slots or self._closed:
                return
            begun_at, slowdowns = time.monotonic(), self._slowdowns
            # A slot that is over before its transaction is cannot be used: the first one is as far ahead as that takes.
            lead = timedelta(seconds=min(self._reserved_in_seconds, _LONGEST_LEAD_SECONDS))
            slots = lookup_rate.reserve_slots(self._database, self._batch, rate=self._rate, lead=lead)
            self._reserved_in_seconds = max(time.monotonic() - begun_at, self._reserved_in_seconds / 2)
            with self._changed:
                if slowdowns == self._slowdowns:
                    self._slots.extend(slots)

    def _void(self) -> None:
        with self._changed:
            self._slots.clear()
            self._slowdowns += 1
            self._changed.notify_all()
