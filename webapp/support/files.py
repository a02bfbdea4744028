"""File locks between processes, files that are on the disk for certain, and folders that go with their process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only private folders are made in it
MEMORY = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
"""A folder in memory where there is one. All users share it: what is made in it must be private."""
_IN_USE = "in-use"
_RETRY_SECONDS = 0.0005


def lock(file: IO[bytes], timeout: float) -> bool:
    """Lock the file until it is closed or the process ends; False if another holds the lock for ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_RETRY_SECONDS)
        else:
            return True


def inode(path: str | Path) -> tuple[int, int] | None:
    """Device and inode of the file that has this name now; None if there is none. Raises OSError."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, and its parents; once this returns, they outlive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync_folder(folder.parent)


def new_draft(folder: Path, *, prefix: str = ".esms-calls-", suffix: str = "") -> tuple[Path, BinaryIO]:
    """A new file that becomes another by its name once it is whole; raises OSError.

    Its name is random, so that no other user can create a file or a link there first. Only this user can read it.
    """
    handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
    return Path(name), os.fdopen(handle, "wb")


def others_may(path: Path) -> str:
    """What other users may do with a file or folder: "read", "write", "read and write", or "" for nothing."""
    try:
        found = path.stat()
    except OSError:
        return ""
    is_theirs = found.st_uid not in {os.geteuid(), 0}
    verbs = {"read": found.st_mode & 0o044 or is_theirs, "write": found.st_mode & 0o022 or is_theirs}
    return " and ".join(verb for verb, may in verbs.items() if may)


def sync_folder(folder: Path) -> None:
    """Write the folder's list of names to the disk: a new file's name is lost in a power cut without it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_while_alive(prefix: str, parent: Path) -> Path:
    """A new private folder, in use as long as this process lives, the program that replaces it, or a child of it.

    Processes that were killed leave theirs behind: those of this user and prefix that no process uses are removed.
    """
    for mark in parent.glob(f"{prefix}*/{_IN_USE}"):
        with suppress(OSError):
            if mark.parent.lstat().st_uid == os.geteuid():
                with mark.open("rb") as file:
                    if lock(file, timeout=0):
                        shutil.rmtree(mark.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    # Locked before it has its name: another process that starts now would take it for an unused one.
    mark = folder / "new"
    handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)  # noqa: FBT003 - its only argument
    mark.rename(folder / _IN_USE)
    return folder
