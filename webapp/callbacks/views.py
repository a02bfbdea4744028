"""The callback URL: a request becomes an arrival, and is answered once that is durable.

A WSGI application of its own in front of Flask's: eSMS sends thousands of these at once, and none needs more.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from webapp.callbacks.ingest import Refused
from webapp.callbacks.spool import CallbackRequest
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.storage.errors import Unavailable
from webapp.support import metrics
from webapp.support.settings import CALLBACK_PATH
from webapp.support.tokens import is_accepted
from webapp.support.waiting import at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from webapp.callbacks.ingest import Ingest

RETRY_AFTER_SECONDS = 10
_BODY_SHARE = 0.4
"""Of the time in which to answer, so much for a body to come; what it takes, database and spool have less."""
_CHUNK = 1024
_METHODS = ("GET", "POST")
_ROUTE = f"{CALLBACK_PATH}<token>"

access = logging.getLogger("access")
log = logging.getLogger(__name__)

Answer = tuple[str, dict[str, str], tuple[tuple[str, str], ...], str]
"""Status line, body, further headers, and what became of the callback, for the log."""


class Callbacks:
    """Answers all that is under ``/esms``, and hands everything else on."""

    def __init__(
        self, otherwise: WSGIApplication, ingest: Ingest, tokens: tuple[str, ...], clean: Callable[[str], str]
    ) -> None:
        """``tokens`` are accepted; ``clean`` takes the secrets out of whatever is kept."""
        self._otherwise = otherwise
        self._ingest = ingest
        self._tokens = tokens
        self._clean = clean

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request, as WSGI has it."""
        if not environ["PATH_INFO"].startswith("/esms"):
            return self._otherwise(environ, start_response)
        started = time.perf_counter()
        status, words, headers, became = self._answer(environ)
        seconds = time.perf_counter() - started
        body = json.dumps(words).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers])
        _tell(environ, status[:3], seconds, became)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        """A wrong token is answered before anything of the request is looked at, whatever its method."""
        token = environ["PATH_INFO"].removeprefix(CALLBACK_PATH)
        if not is_accepted(token, self._tokens):
            return "404 NOT FOUND", {"error": "not found"}, (), ""
        if environ["REQUEST_METHOD"] not in _METHODS:
            words = f"The CallbackUrl takes {' and '.join(_METHODS)}."
            return "405 METHOD NOT ALLOWED", {"error": words}, (("Allow", ", ".join(_METHODS)),), ""
        try:
            began = time.monotonic()
            arrival = self._arrival(environ)
            outcome = self._ingest.take(arrival, time.monotonic() - began)
        except Unavailable as problem:
            log.error("answered 503: %s", problem)  # noqa: TRY400 - the words say all
            return _later()
        except Exception:
            log.exception("answered 503; this is a bug")
            return _later()
        if isinstance(outcome, Refused):
            log.warning("callback rejected: %s", outcome.reason)
            return "400 BAD REQUEST", {"error": outcome.reason}, (), "rejected"
        return "200 OK", {"result": outcome.result}, (), f"{outcome.result} {outcome.reference_id}"

    def _arrival(self, environ: WSGIEnvironment) -> CallbackRequest:
        identifier, now = parameters.new_id(), datetime.now(UTC)
        body, whole = _read_body(environ, esms_callback.BODY_LIMIT + 1, self._ingest.answer_seconds * _BODY_SHARE)
        return CallbackRequest(
            id=identifier,
            received_at=now,
            remote_addr=environ.get("REMOTE_ADDR"),
            method=environ["REQUEST_METHOD"],
            content_type=self._clean(environ.get("CONTENT_TYPE") or "") or None,
            query=self._without_secrets(environ.get("QUERY_STRING", "").encode("latin-1")),
            body=self._without_secrets(body),
            problem=None if whole else "body: ended before it was whole",
        )

    def _without_secrets(self, content: bytes) -> bytes:
        """What is kept holds no token, also if eSMS tells us our CallbackUrl back."""
        text = content.decode("utf-8", "surrogateescape")
        cleaned = self._clean(text)
        return content if cleaned == text else cleaned.encode("utf-8", "surrogateescape")


def _later() -> Answer:
    words = "This callback cannot be stored now; send it again later."
    return "503 SERVICE UNAVAILABLE", {"error": words}, (("Retry-After", str(RETRY_AFTER_SECONDS)),), "unavailable"


def _read_body(environ: WSGIEnvironment, limit: int, seconds: float) -> tuple[bytes, bool]:
    """The body's beginning, and whether it came as it was announced, and in time.

    One byte more than is allowed tells that it is too long, and the rest is never read.
    """
    announced = environ.get("CONTENT_LENGTH") or ""
    length = int(announced) if announced.isdigit() else None
    if length is None and not environ.get("wsgi.input_terminated"):
        return b"", True
    wanted = limit if length is None else min(length, limit)
    body = b""
    try:
        with at_most(seconds):
            while len(body) < wanted and (part := environ["wsgi.input"].read(min(_CHUNK, wanted - len(body)))):
                body += part
    except Exception:  # noqa: BLE001 - the server's own, for broken chunks and connections that ended
        if length is None:
            # gunicorn gives what came of the last chunk now, and waits for nothing more.
            with suppress(Exception):
                body += environ["wsgi.input"].read(wanted - len(body))
        return body, False
    return body, length is None or len(body) >= wanted


def _tell(environ: WSGIEnvironment, status: str, seconds: float, became: str) -> None:
    route = _ROUTE if environ["PATH_INFO"].startswith(CALLBACK_PATH) else "unknown"
    method = metrics.known_method(environ["REQUEST_METHOD"])
    _requests(route, method, status)()
    if became:
        _callbacks(became.partition(" ")[0])()
        metrics.CALLBACK_SECONDS.observe(seconds)
    access.info("%s %s %s %s %.1fms %s", environ.get("REMOTE_ADDR"), method, route, status, seconds * 1000, became)


@cache
def _requests(route: str, method: str, status: str) -> Callable[[], Any]:
    return metrics.REQUESTS.labels(route, method, status).inc


@cache
def _callbacks(result: str) -> Callable[[], Any]:
    return metrics.CALLBACKS.labels(result).inc
