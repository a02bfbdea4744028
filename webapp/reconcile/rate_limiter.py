"""Whose turn it is: the moments at which this run's look-ups leave, so that all runs together keep the rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from webapp.calls.pace import LONGEST_PAUSE, SLACK, Pace

if TYPE_CHECKING:
    from webapp.storage.writer import Writer

_LATE_SECONDS = (SLACK - 1) / 3
"""A look-up that cannot leave so soon after its moment leaves at a later one: together they must keep the rate."""

_LONGEST_LEAD_SECONDS = 5.0
_SLOW = 1 / 4
"""Below this share of the rate moments are reserved one by one."""


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

            def reserve(pace: Pace, now: datetime) -> tuple[Pace, tuple[float, list[float]]]:
                here = time.monotonic()
                # Slowed, each moment is far from the next, and those that become void are lost to all runs.
                wanted = self._at_once if pace.share_at(now) > _SLOW else 1
                after, moments = pace.reserve(now + lead, wanted, self._rate)
                return after, (here, [here + (moment - now).total_seconds() for moment in moments])

            number, (reserved_at, moments) = self._pace_number, self._writer.pace(reserve)
            self._took_seconds = max(time.monotonic() - reserved_at, self._took_seconds / 2)
            with self._changed:
                if number == self._pace_number:
                    self._moments.extend(moments)

    def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
        """Halve the pace, or pause, for all runs; what was reserved at the old pace is void."""

        def slower(pace: Pace, now: datetime) -> tuple[Pace, None]:
            if halve:
                pace = pace.slowed(now)
            if pause_seconds is not None:
                pace = pace.paused(now + timedelta(seconds=min(pause_seconds, LONGEST_PAUSE.total_seconds())))
            return pace, None

        self._writer.pace(slower)
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
