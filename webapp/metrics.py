"""What is counted for Prometheus. Label values come from closed sets only, so that nobody can flood the counters."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CALLBACKS = Counter(
    "esms_callbacks",
    "Callbacks by what became of them: the effect of the report, rejected (kept, unreadable) or unavailable (503)",
    ["result"],
)
CALLBACK_SECONDS = Histogram(
    "esms_callback_seconds",
    "Time from a callback's arrival to its answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REQUESTS = Counter("esms_http_requests", "HTTP requests answered", ["route", "method", "status"])
REGISTERED = Counter("esms_registered_calls", "Calls registered through the API for the first time")


def exposition() -> bytes:
    """All metrics as Prometheus text: of every worker process where there are several, else of this one."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
