"""Stores how long look-ups took, now and then, while they are made."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from webapp.storage import lookup_latencies
from webapp.storage.errors import Unavailable
from webapp.storage.lookup_latencies import Latencies

if TYPE_CHECKING:
    from webapp.reconcile.dispatcher import Dispatcher
    from webapp.storage.database import Database

_SAVE_SECONDS = 2.0


class LatencyRecorder:
    """Adds what one dispatcher counts to the database; while that is away, the counts wait."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        """Store nothing yet."""
        self._database = database
        self._dispatcher = dispatcher
        self._saved_at = time.monotonic()

    def save_now_and_then(self) -> None:
        """Store what was counted, every two seconds."""
        if time.monotonic() - self._saved_at >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Store what was counted."""
        self._saved_at = time.monotonic()
        if self._dispatcher.latencies.lookups:
            with suppress(Unavailable):
                lookup_latencies.add(self._database, self._dispatcher.latencies)
                self._dispatcher.latencies = Latencies()
