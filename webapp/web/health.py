"""The routes for monitoring: is the server alive, is it ready, and what did it count."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.web.gauges import Gauges

T = TypeVar("T")

log = logging.getLogger(__name__)


_CACHE_SECONDS = 1.0


def blueprint(database: Database, gauges: Gauges, *, cached: bool = False) -> Blueprint:
    """The routes ``/healthz``, ``/readyz`` and ``/metrics``; ``cached``: the last two may be a second old."""
    health = Blueprint("health", __name__)
    seconds = _CACHE_SECONDS if cached else 0
    readiness = Shared(lambda: _readiness(database), seconds)
    exposition = Shared(lambda: metrics.exposition(gauges.sample()), seconds)

    @health.get("/healthz")
    def is_alive() -> ResponseReturnValue:
        return {"status": "ok"}

    @health.get("/readyz")
    def is_ready() -> ResponseReturnValue:
        return readiness.get()

    @health.get("/metrics")
    def show_metrics() -> ResponseReturnValue:
        return Response(exposition.get(), content_type=CONTENT_TYPE_LATEST)

    return health


def _readiness(database: Database) -> ResponseReturnValue:
    try:
        database.check()
    except (Unavailable, NotMigrated) as problem:
        log.warning("not ready: %s", problem)
        return {"status": "not ready", "reason": problem.why}, 503
    return {"status": "ready"}


class Shared(Generic[T]):
    """Something that is made for one request at a time, and that the others that wait for it share."""

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        """What was begun at most ``seconds`` before a request came is fresh enough for it."""
        self._make = make
        self._seconds = seconds
        self._one_at_a_time = threading.Lock()
        self._made: tuple[float, T] | None = None

    def get(self) -> T:
        """It; raises what making it raises."""
        came_at = time.monotonic()
        with self._one_at_a_time:
            if self._made is None or self._made[0] < came_at - self._seconds:
                began_at = time.monotonic()
                self._made = began_at, self._make()
            return self._made[1]
