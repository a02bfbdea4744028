"""The error answers of all routes, as JSON: ``{"error": "…"}``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flask import jsonify
from werkzeug.exceptions import HTTPException

from webapp.callbacks.views import RETRY_AFTER_SECONDS
from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from flask import Flask
    from flask.typing import ResponseReturnValue

_log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Answer every error of the application in one way."""
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Unavailable, _no_database)
    app.register_error_handler(Exception, _unexpected)


def http_error(error: HTTPException) -> ResponseReturnValue:
    """The answer to an error that has a status."""
    response = error.get_response()
    response.content_type = "application/json"
    response.data = jsonify(error=error.description).data
    return response


def _no_database(error: Unavailable) -> ResponseReturnValue:
    _log.error("request answered 503: %s", error)
    words = "The database cannot be used now; try again later."
    return {"error": words}, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _unexpected(error: Exception) -> ResponseReturnValue:
    _log.error("answered 500; this is a bug", exc_info=error)
    return {"error": "Internal error; see the server's log."}, 500
