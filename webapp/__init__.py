"""The callback receiver and status store for eSMS voice calls."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from flask import Flask, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp import api, callbacks, health, log, metrics
from webapp.config import Settings, load_settings
from webapp.database import Database, Unavailable
from webapp.queries import Queries
from webapp.store import Store

if TYPE_CHECKING:
    from flask import Response
    from flask.typing import ResponseReturnValue

PATIENCE = timedelta(seconds=3)
"""How long a request waits for the database: a quick 503 is better than a late one, for eSMS sends it again."""
RETRY_AFTER_SECONDS = 10
_METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}

_log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; raises ConfigError for settings that are wrong."""
    settings = settings or load_settings()
    callback_tokens, api_tokens = settings.callback_tokens(), settings.api_tokens()
    log.configure(settings.secrets())
    database = Database(settings.database, patience=PATIENCE)
    store, queries = Store(database), Queries(database)

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False
    app.extensions["database"] = database
    hops = settings.trusted_proxies
    if hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    _tell_of_requests(app)
    app.register_blueprint(callbacks.blueprint(store, callback_tokens))
    app.register_blueprint(api.blueprint(store, queries, api_tokens, settings.time_zone))
    app.register_blueprint(health.blueprint(database))
    _answer_errors(app)
    return app


def _answer_errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> ResponseReturnValue:
        response = error.get_response()
        response.content_type = "application/json"
        words = "not found" if request.path.startswith("/esms") and error.code == 404 else error.description  # noqa: PLR2004
        response.data = app.json.dumps({"error": words})
        return response

    @app.errorhandler(Unavailable)
    def no_database(error: Unavailable) -> ResponseReturnValue:
        _log.error("answered 503: %s", error)
        return _later()

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> ResponseReturnValue:
        _log.error("unexpected", exc_info=error)
        if request.path.startswith("/esms"):
            return _later()
        return {"error": "Something unexpected happened; the server's log tells what."}, 500


def _later() -> ResponseReturnValue:
    words = "The database cannot take or give anything now; try again later."
    return {"error": words}, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _tell_of_requests(app: Flask) -> None:
    access = logging.getLogger("access")

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def tell(response: Response) -> Response:
        # The rule of the route and not its path: it holds no token, and cannot be forged.
        route = request.url_rule.rule if request.url_rule else "unknown"
        method = request.method if request.method in _METHODS else "other"
        metrics.REQUESTS.labels(route, method, str(response.status_code)).inc()
        milliseconds = (time.perf_counter() - g.started) * 1000
        access.info("%s %s %s %d %.1fms", request.remote_addr, method, route, response.status_code, milliseconds)
        return response
