"""The database's clock, which counts for all machines, without a query for each reading."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.storage.database import Database

_REREAD_SECONDS = 10.0
_SLOW_SECONDS = 0.5
"""A reading that took longer may be as much behind, and is used only once."""


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
