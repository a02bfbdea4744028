"""Files that processes share: whose turn it is, and which file stands under a name now. Knows not what is in them."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from webapp.waiting import nap

_PAUSE_SECONDS = 0.0005


def lock(file: IO[bytes], seconds: float) -> bool:
    """Have the file's lock, which ends with the file or the process; False if somebody else keeps it for so long."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            nap(_PAUSE_SECONDS)
        else:
            return True


def inode(path: str | Path) -> tuple[int, int] | None:
    """Which file stands under the name; None if none does. Raises OSError if that cannot be told."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
