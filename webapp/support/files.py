"""Files that processes share: whose turn it is, which file stands under a name now, and which of them nobody uses.

Knows not what is in them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

_IN_USE = "in-use"
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
            time.sleep(_PAUSE_SECONDS)
        else:
            return True


def inode(path: str | Path) -> tuple[int, int] | None:
    """Which file stands under the name; None if none does. Raises OSError if that cannot be told."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, and those above it; their names are on the disk when it returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names of what is in the folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_while_alive(prefix: str, around: Path) -> Path:
    """A new private folder, in use as long as this process lives, what it becomes, or one that it forks.

    Whoever is killed leaves his behind: those of this user and this prefix that are in use no more are removed.
    """
    for mark in around.glob(f"{prefix}*/{_IN_USE}"):
        with suppress(OSError):
            if mark.parent.lstat().st_uid == os.geteuid():
                with mark.open("rb") as file:
                    if lock(file, 0):
                        shutil.rmtree(mark.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=around))
    # The mark is locked before it has its name: somebody who starts at this moment would take it for a dead one's.
    mark = folder / "new"
    handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)  # noqa: FBT003 - that is its only argument
    mark.rename(folder / _IN_USE)
    return folder
