"""The counters and gauges for Prometheus. Label values come from closed sets, so that no sender can add any."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from webapp.support.workarounds import metrics_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from prometheus_client.core import Metric

metrics_files.install()

CALLBACKS = Counter(
    "esms_callbacks",
    "Callbacks by what became of them: the report's effect, other-channel, spooled, rejected (400, kept) or "
    "unavailable (503)",
    ["result"],
)
CALLBACK_SECONDS = Histogram(
    "esms_callback_seconds",
    "Time from a callback's arrival to its answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REJECTIONS = Counter("esms_rejections", "Callbacks that could not be read, by the class of the reason", ["reason"])
NOT_ALLOWED = Counter(
    "esms_callbacks_not_allowed",
    "Requests with a right token from addresses that CALLBACK_ALLOWED_IPS does not name, answered 404",
)
WRONG_TOKENS = Counter("esms_wrong_tokens", "Requests to the callback URL with a wrong token, answered 404")
UNREAD = Counter(
    "esms_unread_values",
    "Values of callbacks that could not be read, by parameter; other: a parameter that is not known",
    ["parameter"],
)
BATCH_REPORTS = Histogram(
    "esms_batch_reports",
    "Callbacks that one transaction stored together",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200),
)
_SECONDS_OF_A_TRANSACTION = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_SECONDS = Histogram(
    "esms_batch_seconds",
    "Time that such a transaction took as a whole, the wait for a connection and for locks included",
    buckets=_SECONDS_OF_A_TRANSACTION,
)
COMMIT_SECONDS = Histogram(
    "esms_batch_commit_seconds",
    "Time that its commit took: the disk's share, or that of a synchronous replica",
    buckets=_SECONDS_OF_A_TRANSACTION,
)
BREAKER_OPEN = Gauge(
    "esms_database_breaker_open",
    "1 while a worker sends callbacks to the spool, because the database does not take them; else 0",
    multiprocess_mode="livemax",
)
METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}
"""HTTP methods that are counted and logged by their names; others are "other": a label's values are a closed set."""
REQUESTS = Counter("esms_http_requests", "HTTP requests answered", ["route", "method", "status"])
REGISTERED = Counter("esms_registered_calls", "Calls registered through the API for the first time")
COUNTED = (
    CALLBACKS,
    CALLBACK_SECONDS,
    REJECTIONS,
    WRONG_TOKENS,
    NOT_ALLOWED,
    UNREAD,
    BATCH_REPORTS,
    BATCH_SECONDS,
    COMMIT_SECONDS,
    BREAKER_OPEN,
    REQUESTS,
    REGISTERED,
)
"""What the worker processes count; one by one, for the documents."""


@dataclass(frozen=True, slots=True)
class SampledGauge:
    """A gauge of which no process keeps count: it is sampled at scrape time."""

    name: str
    words: str
    labels: tuple[str, ...] = ()

    def of(self, value: float | datetime | None) -> GaugeMetricFamily:
        """The gauge with one value; a time becomes seconds since 1970, None no sample."""
        return self.by({(): value})

    def by(self, values: Mapping[tuple[str, ...], float | datetime | None]) -> GaugeMetricFamily:
        """The gauge with a value for each combination of its labels."""
        family = GaugeMetricFamily(self.name, self.words, labels=self.labels)
        for labels, value in values.items():
            if value is not None:
                family.add_metric(labels, value if isinstance(value, int | float) else value.timestamp())
        return family


@dataclass(frozen=True, slots=True)
class SampledHistogram:
    """A histogram of which no process of the server keeps count."""

    name: str
    words: str
    labels: tuple[str, ...]

    def by(self, values: Mapping[tuple[str, ...], tuple[Sequence[tuple[float, int]], float]]) -> HistogramMetricFamily:
        """The histogram with, for each combination of its labels, the counts up to each edge, and the sum."""
        family = HistogramMetricFamily(self.name, self.words, labels=self.labels)
        for labels, (counts, total) in values.items():
            family.add_metric(
                labels, [("+Inf" if math.isinf(edge) else str(edge), number) for edge, number in counts], total
            )
        return family


def exposition(sampled: Iterable[Metric] = ()) -> bytes:
    """All metrics as Prometheus text: the counts of all worker processes, and what is sampled at scrape time."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        counted = generate_latest()
    else:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        counted = generate_latest(registry)
    return counted + generate_latest(_Sampled(sampled))


class _Sampled:
    def __init__(self, sampled: Iterable[Metric]) -> None:
        self._sampled = sampled

    def collect(self) -> Iterable[Metric]:
        return self._sampled
