"""The routes for monitoring: is the server alive, is it ready, and what did it count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from webapp.callbacks.spool import SpoolError
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support import metrics

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from webapp.callbacks.spool import Spool
    from webapp.storage.database import Database


def blueprint(database: Database, spool: Spool | None) -> Blueprint:
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
            return {"status": "not ready", "reason": str(problem)}, 503
        return {"status": "ready"}

    @health.get("/metrics")
    def show_metrics() -> ResponseReturnValue:
        return Response(metrics.exposition(*_gauges(spool)), content_type=CONTENT_TYPE_LATEST)

    return health


def _gauges(spool: Spool | None) -> list[metrics.Gauge]:
    try:
        depth = spool.depth() if spool else None
    except SpoolError:
        depth = None
    if depth is None:
        return []
    seconds = depth.oldest_seconds(datetime.now(UTC))
    return [
        ("esms_spool_reports", "Callbacks that wait in the spool for the database", depth.reports),
        ("esms_spool_oldest_seconds", "For how long the oldest of them has waited; 0 if none does", seconds),
    ]
