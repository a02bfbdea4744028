"""Puts the WSGI application together: the one place that wires the packages to each other."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from flask import Flask, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp.callbacks import views
from webapp.callbacks.ingest import Ingest
from webapp.callbacks.spool import Spool
from webapp.storage.database import Database
from webapp.storage.errors import Unavailable
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support import log, metrics
from webapp.support.settings import Settings, load_settings
from webapp.web import api, health

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response
    from flask.typing import ResponseReturnValue

PATIENCE = timedelta(seconds=3)
"""How long a request of the API waits for the database."""
LONGEST = timedelta(seconds=30)
"""How long the database may take over a request of the API, as a whole."""

_log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; raises ConfigError for settings that are wrong."""
    settings = settings or load_settings()
    callback_tokens, api_tokens = settings.callback_tokens(), settings.api_tokens()
    log.configure(settings.secrets())
    clean = log.without(settings.secrets())
    database = Database(settings.database, patience=PATIENCE, transaction_limit=LONGEST)
    writer, reader = Writer(database), Reader(database)
    spool = Spool(settings.instance_dir.resolve(), settings.spool_limit) if settings.spool else None
    ingest = _ingest(settings, spool, clean)

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False
    app.extensions |= {"database": database, "ingest": ingest}
    app.wsgi_app = views.Callbacks(app.wsgi_app, ingest, callback_tokens, clean)  # type: ignore[method-assign]
    hops = settings.trusted_proxies
    if hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    _tell_of_requests(app)
    app.register_blueprint(api.blueprint(writer, reader, api_tokens, settings.time_zone))
    app.register_blueprint(health.blueprint(database, spool))
    _answer_errors(app)
    return app


def _ingest(settings: Settings, spool: Spool | None, clean: Callable[[str], str]) -> Ingest:
    """With connections of its own, so that nothing else keeps callbacks waiting, and with less patience."""
    database = Database(
        settings.database,
        patience=settings.answer_within * 0.3,
        transaction_limit=settings.answer_within,
        connections=3,
    )
    return Ingest(database, Writer(database), spool, settings.answer_within, clean)


def _answer_errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> ResponseReturnValue:
        response = error.get_response()
        response.content_type = "application/json"
        response.data = app.json.dumps({"error": error.description})
        return response

    @app.errorhandler(Unavailable)
    def no_database(error: Unavailable) -> ResponseReturnValue:
        _log.error("answered 503: %s", error)
        words = "The database cannot take or give anything now; try again later."
        return {"error": words}, 503, {"Retry-After": str(views.RETRY_AFTER_SECONDS)}

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> ResponseReturnValue:
        _log.error("unexpected", exc_info=error)
        return {"error": "Something unexpected happened; the server's log tells what."}, 500


def _tell_of_requests(app: Flask) -> None:
    access = logging.getLogger("access")

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def tell(response: Response) -> Response:
        # The rule of the route and not its path: it holds no token, and cannot be forged.
        route = request.url_rule.rule if request.url_rule else "unknown"
        method = metrics.known_method(request.method)
        metrics.REQUESTS.labels(route, method, str(response.status_code)).inc()
        milliseconds = (time.perf_counter() - g.started) * 1000
        access.info("%s %s %s %d %.1fms", request.remote_addr, method, route, response.status_code, milliseconds)
        return response
