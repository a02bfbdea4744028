"""Whose turn it is: the moments at which this run's look-ups leave, so that all runs together keep the rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

from webapp.calls.pace import SLACK

if TYPE_CHECKING:
    from webapp.storage.writer import Writer

_LATE_SECONDS = (SLACK - 1) / 3
"""A look-up that cannot leave so soon after its moment leaves at a later one: together they must keep the rate."""

_LONGEST_LEAD_SECONDS = 5.0


class RateLimiter:
    """The moments at which look-ups may leave, reserved in the database a few at a time, used by many threads."""

    def __init__(self, writer: Writer, rate: int, at_once: int) -> None:
        """``rate`` is look-ups a second; reserve nothing yet."""
        self._writer = writer
        self._rate = rate
        self._at_once = at_once
        self._moments: deque[float] = deque()
        self._pace_number = 0
        self._took_seconds = 0.0
        self._changed = threading.Condition()
        self._reserving = threading.Lock()
        self._closed = False

    def wait(self) -> bool:
        """Return when a look-up may leave; False once all is over. Raises ``database.Unavailable``."""
        while not self._closed:
            with self._changed:
                number, moment = self._pace_number, self._next()
            if moment is None:
                self._reserve()
            elif self._reached(moment, number):
                return True
        return False

    def _next(self) -> float | None:
        """The first moment that is not over."""
        over = time.monotonic() - _LATE_SECONDS
        while self._moments:
            moment = self._moments.popleft()
            if moment > over:
                return moment
        return None

    def _reached(self, moment: float, number: int) -> bool:
        """Wait for it; False if it is void meanwhile, or was missed."""
        with self._changed:

            def void() -> bool:
                return self._closed or self._pace_number != number

            self._changed.wait_for(void, timeout=moment - time.monotonic())
            return not void() and time.monotonic() - moment < _LATE_SECONDS

    def _reserve(self) -> None:
        with self._reserving:
            if self._moments or self._closed:
                return

            # Moments that are over before the transaction is were of no use, and so would be all others after them.
            lead = timedelta(seconds=min(self._took_seconds, _LONGEST_LEAD_SECONDS))

            number = self._pace_number
            found = self._writer.reserve_slots(self._at_once, self._rate, lead=lead, after_slowdown=1)
            moments = [found.read_at + (slot - found.now).total_seconds() for slot in found.slots]
            self._took_seconds = max(time.monotonic() - found.read_at, self._took_seconds / 2)
            with self._changed:
                if number == self._pace_number:
                    self._moments.extend(moments)

    def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
        """Halve the pace, or pause, for all runs; what was reserved at the old pace is void."""
        self._writer.slow_down(pause_seconds, halve=halve)
        self._void()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed = True
        self._void()

    def _void(self) -> None:
        with self._changed:
            self._moments.clear()
            self._pace_number += 1
            self._changed.notify_all()
