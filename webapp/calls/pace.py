"""At what pace eSMS may be asked, by all reconcile runs together: a value, and what becomes of it.

Pure: knows no clock, no database and no thread. Its moments are the database's, which all machines share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

SLACK = 1.03
"""Look-ups leave so many times further apart than the rate says: one that leaves late still keeps the rate."""
SMALLEST_SHARE = 1 / 32
RECOVERY = timedelta(minutes=2)
"""So long it takes from a standstill to the full rate."""
LONGEST_PAUSE = timedelta(hours=1)
"""A ``Retry-After`` beyond it counts as so long; nor is a moment further ahead believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The next free moment, and the share of the rate to which eSMS slowed the look-ups; since then it grows."""

    next_slot_at: datetime
    share: float = 1.0
    slowed_at: datetime | None = None

    def share_at(self, now: datetime) -> float:
        """The share of the rate that may be used now: above 0, at most 1. A clock that was set back recovers, too."""
        if self.slowed_at is None:
            return self.share
        return min(1.0, self.share + abs(now - self.slowed_at) / RECOVERY)

    def reserve(self, now: datetime, wanted: int, rate: int) -> tuple[Pace, list[datetime]]:
        """Take the next ``wanted`` moments, at which one look-up each may leave; ``rate`` is look-ups a second."""
        gap = timedelta(seconds=SLACK / (rate * self.share_at(now)))
        first = min(max(self.next_slot_at, now), now + LONGEST_PAUSE)
        return replace(self, next_slot_at=first + wanted * gap), [first + place * gap for place in range(wanted)]

    def slowed(self, now: datetime) -> Pace:
        """Half as fast as now: eSMS said that we ask too fast."""
        return replace(self, share=max(self.share_at(now) / 2, SMALLEST_SHARE), slowed_at=now)

    def paused(self, until: datetime) -> Pace:
        """Nothing more until then: eSMS said when to ask again."""
        return replace(self, next_slot_at=max(self.next_slot_at, until))
