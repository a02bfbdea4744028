"""The routes for monitoring: is the server alive, is it ready, and what did it count."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily

from webapp.callbacks.spool import SpoolError
from webapp.calls.outcome import OUTCOMES_OF_SETTLED
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.storage.reader import Reader
from webapp.support import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.typing import ResponseReturnValue

    from webapp.callbacks.spool import Depth, Spool
    from webapp.storage.database import Database

log = logging.getLogger(__name__)

_SAMPLE_SECONDS = 1.0
_OUTCOME_SAMPLE_SECONDS = 60.0


def blueprint(database: Database, spool: Spool | None) -> Blueprint:
    """The routes ``/healthz``, ``/readyz`` and ``/metrics``."""
    health = Blueprint("health", __name__)
    sampler = _SpoolSampler(spool)
    outcomes = _OutcomeSampler(database)

    @health.get("/healthz")
    def is_alive() -> ResponseReturnValue:
        return {"status": "ok"}

    @health.get("/readyz")
    def is_ready() -> ResponseReturnValue:
        try:
            database.check()
        except (Unavailable, NotMigrated) as problem:
            log.warning("not ready: %s", problem)
            reason = problem.public if isinstance(problem, Unavailable) else str(problem)
            return {"status": "not ready", "reason": reason.replace(database.name, "the database")}, 503
        return {"status": "ready"}

    @health.get("/metrics")
    def show_metrics() -> ResponseReturnValue:
        return Response(
            metrics.exposition([*_spool_gauges(sampler.depth()), *outcomes.gauges()]), content_type=CONTENT_TYPE_LATEST
        )

    return health


class _SpoolSampler:
    """Reads the spool's depth once a second at most: each reading delays the callbacks that are being spooled."""

    def __init__(self, spool: Spool | None) -> None:
        self._spool = spool
        self._one_at_a_time = threading.Lock()
        self._sampled_at = float("-inf")
        self._depth: Depth | None = None

    def depth(self) -> Depth | None:
        """How much waits, not older than a second; None without a spool, or while it cannot be read."""
        with self._one_at_a_time:
            if self._spool and time.monotonic() - self._sampled_at >= _SAMPLE_SECONDS:
                try:
                    self._depth = self._spool.depth()
                except SpoolError:
                    self._depth = None
                self._sampled_at = time.monotonic()
            return self._depth


class _OutcomeSampler:
    """Counts the calls that were settled in the last 24 hours, once a minute at most: it reads an entry for each."""

    def __init__(self, database: Database) -> None:
        self._reader = Reader(database)
        self._one_at_a_time = threading.Lock()
        self._sampled_at = float("-inf")
        self._counts: dict[str, int] | None = None

    def gauges(self) -> list[GaugeMetricFamily]:
        """One gauge; none while the database cannot be read."""
        with self._one_at_a_time:
            if time.monotonic() - self._sampled_at >= _OUTCOME_SAMPLE_SECONDS:
                try:
                    self._counts = self._reader.outcomes_of_last_day(datetime.now(UTC))
                except Unavailable:
                    self._counts = None
                self._sampled_at = time.monotonic()
            counts = self._counts
        if counts is None:
            return []
        words = "Calls settled in the last 24 hours, by outcome"
        gauge = GaugeMetricFamily("esms_settled_calls_last_day", words, labels=["outcome"])
        for outcome in OUTCOMES_OF_SETTLED:
            gauge.add_metric([outcome], counts.get(outcome, 0))
        return [gauge]


def _spool_gauges(depth: Depth | None) -> Iterator[GaugeMetricFamily]:
    if depth is None:
        return
    seconds = depth.oldest_seconds(datetime.now(UTC))
    words = "Callbacks that wait in the spool for the database"
    yield GaugeMetricFamily("esms_spool_reports", words, depth.reports)
    words = "For how long the oldest of them has waited; 0 if none does"
    yield GaugeMetricFamily("esms_spool_oldest_seconds", words, seconds)
