"""What is counted for Prometheus. Label values come from closed sets only, so that nobody can flood the counters."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Gauge = tuple[str, str, float]
"""Name, help and value."""

_log = logging.getLogger(__name__)
_ROOM_BYTES = 256 * 1024
"""For the counts of one kind of one process; with every label there is, they take a third."""


class _Counts(MmapedDict):
    """A process's counts, in a file that has its room on the disk.

    The library's own are only as long as they must be: what is written there once the disk is full ends the process.
    """

    def __init__(self, filename: str) -> None:
        try:
            if not Path(filename).exists():
                _make_room(Path(filename))
        except OSError as error:
            _log.warning("what process %d counts is not in /metrics: %s", os.getpid(), error)
            filename = f"/proc/self/fd/{os.memfd_create('counts')}"
        super().__init__(filename)  # type: ignore[no-untyped-call]


def _make_room(path: Path) -> None:
    """Make an empty file of counts. It gets its name when it is whole: others read all that are there, at any time."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM_BYTES)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


if sys.platform == "linux":
    # The library has no setting for it.
    setattr(values, "MmapedDict", _Counts)  # noqa: B010

CALLBACKS = Counter(
    "esms_callbacks",
    "Callbacks by what became of them: the report's effect, spooled, rejected (kept, unreadable) or unavailable (503)",
    ["result"],
)
CALLBACK_SECONDS = Histogram(
    "esms_callback_seconds",
    "Time from a callback's arrival to its answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}
REQUESTS = Counter("esms_http_requests", "HTTP requests answered", ["route", "method", "status"])
REGISTERED = Counter("esms_registered_calls", "Calls registered through the API for the first time")


def known_method(method: str) -> str:
    """The HTTP method as a label value."""
    return method if method in _METHODS else "other"


def exposition(*gauges: Gauge) -> bytes:
    """All metrics as Prometheus text, of every worker process where there are several; and gauges read just now."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        counted = generate_latest()
    else:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        counted = generate_latest(registry)
    return counted + generate_latest(_Now(gauges))


class _Now:
    """What is read when it is asked for, of which no process keeps a count."""

    def __init__(self, gauges: Iterable[Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return (GaugeMetricFamily(*gauge) for gauge in self._gauges)
