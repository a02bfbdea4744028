"""Keeps the figures up to date in the background: one worker of each machine does it."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from webapp.storage import rollups
from webapp.storage.errors import Unavailable
from webapp.support import files

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.database import Database

log = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 120.0
PAUSE_FACTOR = 100
"""Length of a pause in lengths of the refresh before it: callbacks hardly ever meet one."""
CATCH_UP_FACTOR = 10
"""The same while more days wait than one refresh computes: refreshing takes at most a tenth of one core."""
_AFTER_A_BUG_SECONDS = 60.0


class Refresher:
    """Refreshes the figures of one database, again and again."""

    def __init__(self, database: Database, lock: Path) -> None:
        """Start nothing yet: the process may still fork. The process that holds ``lock``, a file, refreshes."""
        self._database = database
        self._lock = lock
        self._held: IO[bytes] | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None

    def start(self) -> None:
        """Refresh in the background from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="figures")
            self._thread.start()

    def close(self) -> None:
        """End the background work."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._held is not None:
            self._held.close()

    def _run(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not self._ended.wait(pause):
            pause = self.refresh_once()

    def refresh_once(self) -> float:
        """Refresh, if it is this process that does it; how many seconds to pause then."""
        begun_at = time.monotonic()
        done = None
        try:
            if not self._is_mine():
                return SHORTEST_PAUSE_SECONDS
            done = rollups.refresh(self._database)
        except Unavailable as problem:
            if str(problem) != self._problem:
                log.warning("the figures cannot be refreshed now: %s", problem)
            self._problem = str(problem)
        except Exception:
            log.exception("the figures cannot be refreshed; this is a bug")
            return _AFTER_A_BUG_SECONDS
        else:
            self._problem = None
        factor = CATCH_UP_FACTOR if done and done.more else PAUSE_FACTOR
        return min(max(SHORTEST_PAUSE_SECONDS, factor * (time.monotonic() - begun_at)), LONGEST_PAUSE_SECONDS)

    def _is_mine(self) -> bool:
        """Whether this process has the lock, or gets it now. Without a folder for it, every process refreshes."""
        if self._held is not None:
            return True
        with suppress(OSError):
            files.make_folder(self._lock.parent)
            file = self._lock.open("ab")
            if files.lock(file, timeout=0):
                self._held = file
            else:
                file.close()
            return self._held is not None
        return True
