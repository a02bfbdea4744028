"""For those who watch over the server: is it alive, is it ready, and what did it do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from webapp import metrics
from webapp.database import NotMigrated, Unavailable

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from webapp.database import Database


def blueprint(database: Database) -> Blueprint:
    """The routes ``/healthz``, ``/readyz`` and ``/metrics``."""
    room = Blueprint("health", __name__)

    @room.get("/healthz")
    def alive() -> ResponseReturnValue:
        return {"status": "ok"}

    @room.get("/readyz")
    def ready() -> ResponseReturnValue:
        try:
            database.check()
        except (Unavailable, NotMigrated) as problem:
            return {"status": "not ready", "reason": str(problem)}, 503
        return {"status": "ready"}

    @room.get("/metrics")
    def counted() -> ResponseReturnValue:
        return Response(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)

    return room
