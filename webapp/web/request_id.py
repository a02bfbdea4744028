"""Gives every request an id, which all its log lines carry: the ``X-Request-Id`` of a trusted proxy, or our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.support import log_context
from webapp.support.log_context import LogContext

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def with_request_id(application: WSGIApplication, hops: int) -> WSGIApplication:
    """The application. Without proxies (``hops`` is 0) anybody could have sent the header, and it does not count."""

    def identified(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        log_context.current.set(LogContext(environ.get("HTTP_X_REQUEST_ID") if hops else None))
        return application(environ, start_response)

    return identified
