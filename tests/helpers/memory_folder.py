"""Puts what the tests write into memory where there is room: a busy disk doubles the work of a test."""

from __future__ import annotations

import os
import tempfile

_FOLDER = "/dev/shm"  # noqa: S108 - each of its files is made by tempfile, for one user
_ENOUGH = 4 * 1024**3
"""Bytes. A whole run leaves less than one tenth of it, but takes more in between."""


def use_memory() -> None:
    """Let this process and all that it starts make their temporary files in memory; TMPDIR names another folder."""
    if "TMPDIR" not in os.environ and _has_room():
        os.environ["TMPDIR"] = tempfile.tempdir = _FOLDER


def _has_room() -> bool:
    """Also whether programs in it can be run: a test installs the package there."""
    try:
        about = os.statvfs(_FOLDER)
    except OSError:
        return False
    free = about.f_bavail * about.f_frsize
    return free >= _ENOUGH and not about.f_flag & os.ST_NOEXEC and os.access(_FOLDER, os.W_OK)
