"""The page as a whole: its blueprint, who may see it, and what all its parts share."""

from __future__ import annotations

import hashlib
import logging
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, g, make_response, redirect, render_template, request, url_for
from flask_babel import gettext
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError, NotFound, ServiceUnavailable

from webapp.callbacks.views import RETRY_AFTER_SECONDS
from webapp.storage.errors import Unavailable
from webapp.web.errors import http_error
from webapp.web.pages import call_list, downloads, formats, headers, language, one_call, overview, session, sign_in
from webapp.web.pages.sign_in_throttle import Throttle
from webapp.web.pages.words import error_words, range_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask, Response
    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.support.settings import Settings

_log = logging.getLogger(__name__)
_WEB = Path(__file__).parent.parent
_OPEN = {"pages.sign_in", "pages.static"}
"""Endpoints for those who are not signed in."""
_csrf = CSRFProtect()


def init_app(app: Flask, database: Database, settings: Settings, tokens: Callable[[], tuple[str, ...]]) -> None:
    """Add the page to the application; ``tokens`` gives those that sign in."""
    session.init_app(app, tokens)
    language.init_app(app, settings.time_zone)
    formats.init_app(app)
    _csrf.init_app(app)
    app.register_blueprint(_blueprint(database, settings, tokens))
    app.register_error_handler(404, _no_such_page)


def _blueprint(database: Database, settings: Settings, tokens: Callable[[], tuple[str, ...]]) -> Blueprint:
    pages = Blueprint(
        "pages", __name__, template_folder=_WEB / "templates", static_folder=_WEB / "static", static_url_path="/static"
    )
    pages.before_request(_admit)
    pages.after_request(_finish)
    pages.context_processor(_shared)
    pages.url_defaults(_keep_language)
    pages.register_error_handler(HTTPException, _error)
    pages.register_error_handler(Unavailable, _no_database_page)
    pages.register_error_handler(Exception, _unexpected_page)
    sign_in.add_to(pages, tokens, Throttle())
    call_list.add_to(pages, database)
    one_call.add_to(pages, database)
    overview.add_to(pages, database, settings)
    downloads.add_to(pages, database, settings)
    return pages


def _admit() -> ResponseReturnValue | None:
    """Check forms for their token, and show nothing to those who are not signed in."""
    if request.method == "POST":
        _csrf.protect()
    if request.endpoint in _OPEN or session.is_signed_in():
        return None
    if request.path == "/":
        return sign_in.form()
    return redirect(url_for("pages.overview", next=request.full_path.rstrip("?")))


def _finish(response: Response) -> Response:
    headers.protect(response, public=request.endpoint == "pages.static")
    language.remember(response)
    return response


def _shared() -> dict[str, Any]:
    return {
        "signed_in": session.is_signed_in(),
        "language": language.chosen(),
        "in_language": _in_language,
        "asset": _asset,
        "error_words": error_words(),
        "range_words": range_words,
        "milliseconds": lambda: round((time.perf_counter() - g.started) * 1000),
    }


def _in_language(name: str) -> str:
    """The address of this page in another language."""
    arguments: dict[str, Any] = {**request.args.to_dict(flat=False), **(request.view_args or {}), "lang": name}
    known = request.endpoint and request.method == "GET"
    return url_for(str(request.endpoint), **arguments) if known else url_for("pages.overview", lang=name)


def _keep_language(endpoint: str, values: dict[str, Any]) -> None:
    """What the URL chooses stands in the links, too."""
    if endpoint != "pages.static" and (chosen := request.args.get("lang")) in language.LANGUAGES:
        values.setdefault("lang", chosen)


def _asset(name: str) -> str:
    """The address of a style sheet or script, another for each content."""
    return url_for("pages.static", filename=name, v=_digest(name))


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((_WEB / "static" / name).read_bytes()).hexdigest()[:8]


def _error(error: HTTPException) -> ResponseReturnValue:
    if error.code and error.code < 400:  # noqa: PLR2004 - a redirection
        return error
    if isinstance(error, CSRFError):
        error = BadRequest(gettext("The form is too old, or came from another site: load the page and try again."))
    headers_ = {"Retry-After": str(RETRY_AFTER_SECONDS)} if isinstance(error, ServiceUnavailable) else {}
    return render_template("error.html", error=error), error.code or 500, headers_


def _no_such_page(error: HTTPException) -> ResponseReturnValue:
    """A page for browsers at an address that nothing has; all else is answered as before."""
    if request.blueprint == "pages":
        return _error(error)
    is_for_programs = request.path.startswith(("/esms", "/api"))
    if request.url_rule or is_for_programs or "text/html" not in request.headers.get("Accept", ""):
        return http_error(error)
    words = NotFound(gettext("There is no page at this address."))
    return _finish(make_response(render_template("error.html", error=words, **_shared()), 404))


def _no_database_page(error: Unavailable) -> ResponseReturnValue:
    _log.error("page answered 503: %s", error)
    return _error(ServiceUnavailable(gettext("The database cannot be used now. Callbacks are received all the same.")))


def _unexpected_page(error: Exception) -> ResponseReturnValue:
    _log.error("page answered 500; this is a bug", exc_info=error)
    return _error(InternalServerError(gettext("Something is wrong in this program. The server's log says more.")))
