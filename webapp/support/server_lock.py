"""A lock in the instance folder: servers share it for as long as they run, and a restore has it alone."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER_LOCK = "server.lock"


def lock_while_serving(folder: Path) -> bool:
    """Have the lock as long as this process lives, the program that replaces it, or a child of it.

    False: a restore has it. Raises OSError where the folder cannot be used.
    """
    files.make_folder(folder)
    handle = os.open(folder / SERVER_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    os.set_inheritable(handle, True)  # noqa: FBT003 - its only argument
    return True


@contextmanager
def locked_for_restore(folder: Path) -> Iterator[bool]:
    """Whether no server runs; while the block runs, none starts. Raises OSError."""
    with (folder / SERVER_LOCK).open("ab") as file:
        yield files.lock(file, timeout=0)
