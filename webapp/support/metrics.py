"""The counters and gauges for Prometheus. Label values come from closed sets, so that no sender can add any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from webapp.support.workarounds import metrics_files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

metrics_files.install()

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
WRONG_TOKENS = Counter("esms_wrong_tokens", "Requests to the callback URL with a wrong token, answered 404")
UNREAD = Counter(
    "esms_unread_values",
    "Values of callbacks that could not be read, by parameter; other: a parameter that is not known",
    ["parameter"],
)
REGISTERED = Counter("esms_registered_calls", "Calls registered through the API for the first time")


def known_method(method: str) -> str:
    """The HTTP method as a label value."""
    return method if method in _METHODS else "other"


def exposition(gauges: Iterable[Metric] = ()) -> bytes:
    """All metrics as Prometheus text: the counts of all worker processes, and the gauges, sampled at scrape time."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        counted = generate_latest()
    else:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        counted = generate_latest(registry)
    return counted + generate_latest(_Gauges(gauges))


class _Gauges:
    def __init__(self, gauges: Iterable[Metric]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges
