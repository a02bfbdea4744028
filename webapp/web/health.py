"""The routes for monitoring: is the server alive, is it ready, and what did it count."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support import metrics

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.web.gauges import Gauges

log = logging.getLogger(__name__)


def blueprint(database: Database, gauges: Gauges) -> Blueprint:
    """The routes ``/healthz``, ``/readyz`` and ``/metrics``."""
    health = Blueprint("health", __name__)

    @health.get("/healthz")
    def is_alive() -> ResponseReturnValue:
        return {"status": "ok"}

    @health.get("/readyz")
    def is_ready() -> ResponseReturnValue:
        try:
            database.check()
        except (Unavailable, NotMigrated) as problem:
            log.warning("not ready: %s", problem)
            return {"status": "not ready", "reason": problem.why}, 503
        return {"status": "ready"}

    @health.get("/metrics")
    def show_metrics() -> ResponseReturnValue:
        return Response(metrics.exposition(gauges.sample()), content_type=CONTENT_TYPE_LATEST)

    return health
