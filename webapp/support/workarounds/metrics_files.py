"""Lets prometheus-client count on a full disk.

The library maps files that are only as long as their contents: writing to them once the disk is full ends the process
(SIGBUS). And a process that is killed while it makes its file leaves an empty one, and then every reading fails
(prometheus/client_python#1199). Needed until prometheus-client allocates its files before it names them.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_log = logging.getLogger(__name__)
_ALLOCATED_BYTES = 256 * 1024
"""For the counts of one kind of one process. With every label in use they take a third of it."""


class _AllocatedCounts(MmapedDict):
    """A process's counts, in a file whose space on the disk is allocated; without space, in memory."""

    def __init__(self, filename: str) -> None:
        try:
            if not Path(filename).exists():
                _allocate(Path(filename))
        except OSError as error:
            _log.warning("what process %d counts is not in /metrics: %s", os.getpid(), error)
            filename = f"/proc/self/fd/{os.memfd_create('counts')}"
        super().__init__(filename)  # type: ignore[no-untyped-call]


def _allocate(path: Path) -> None:
    """Make an empty file of counts. It gets its name when it is whole, because others read the folder at any time."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ALLOCATED_BYTES)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def install() -> None:
    """Make the library count in allocated files. Call it before the first metric is made."""
    if sys.platform == "linux":
        setattr(values, "MmapedDict", _AllocatedCounts)  # noqa: B010 - the library has no setting for it
