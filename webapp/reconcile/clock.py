"""The database's clock, which counts for all machines, without a query for each reading; and clocks that are off."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.storage.database import Database

_REREAD_SECONDS = 10.0
_SLOW_SECONDS = 0.5
"""A reading that took longer may be as much behind, and is used only once."""


_log = logging.getLogger(__name__)
TOLERANCE = timedelta(minutes=1)
"""By how much clocks may differ."""


@dataclass(slots=True)
class Clocks:
    """Which other clocks this machine's disagrees with, by more than a minute; each is logged once."""

    off: dict[str, timedelta] = field(default_factory=dict)
    """How far this machine's clock is ahead (behind: negative), by whose the other clock is."""

    def note(self, whose: str, ahead: timedelta | None) -> None:
        """Compare once more; None: the other clock was not read."""
        if ahead is not None and abs(ahead) > TOLERANCE and whose not in self.off:
            self.off[whose] = ahead
            _log.warning("%s", words(whose, ahead))


def words(whose: str, ahead: timedelta) -> str:
    """That this machine's clock is off, and what to do."""
    side = "ahead of" if ahead > timedelta(0) else "behind"
    return (
        f"This machine's clock is {abs(ahead).total_seconds():.0f} s {side} {whose}: set it by NTP (timedatectl). "
        "The order and the times of reports are by this clock."
    )


class DatabaseClock:
    """The database's time, re-read every 10 s; in between, this machine's monotonic clock is added."""

    def __init__(self, database: Database) -> None:
        """Read nothing yet."""
        self._database = database
        self._read_at = float("-inf")
        self._time: datetime

    def now(self) -> datetime:
        """The time, never ahead of the database's; raises ``Unavailable``."""
        begun_at = time.monotonic()
        if begun_at - self._read_at > _REREAD_SECONDS:
            reading, read_at = self._database.now(), time.monotonic()
            if read_at - begun_at > _SLOW_SECONDS:
                return reading
            self._time, self._read_at = reading, read_at
        return self._time + timedelta(seconds=time.monotonic() - self._read_at)

    def at(self, moment: float | None) -> datetime | None:
        """The time at that moment of ``time.monotonic``; None of None. Raises ``Unavailable``."""
        return None if moment is None else self.now() - timedelta(seconds=time.monotonic() - moment)
