"""The callback URL: a request becomes a report, stored before it is answered 200. What cannot be read is kept, too."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flask import Blueprint, request
from sqlalchemy.exc import DataError, IntegrityError
from werkzeug.exceptions import MethodNotAllowed, NotFound

from webapp import esms, metrics
from webapp.config import CALLBACK_PATH, is_one_of
from webapp.database import Unavailable
from webapp.store import Rejected

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from webapp.store import Store

_METHODS = ["GET", "POST"]

log = logging.getLogger(__name__)


def blueprint(store: Store, tokens: tuple[str, ...]) -> Blueprint:
    """The route of the callback URL."""
    room = Blueprint("callbacks", __name__)

    @room.before_app_request
    def know_the_token() -> None:
        """Answer a wrong token before anything of the request is looked at, whatever its method."""
        if not request.path.startswith("/esms"):
            return
        if not is_one_of(request.path.removeprefix(CALLBACK_PATH), tokens):
            raise NotFound
        if request.method not in _METHODS:
            raise MethodNotAllowed(_METHODS)

    @room.route(f"{CALLBACK_PATH}<token>", methods=_METHODS)
    def receive(token: str) -> ResponseReturnValue:  # noqa: ARG001 - it is known already
        started = time.perf_counter()
        try:
            return _receive(store)
        except Unavailable:
            metrics.CALLBACKS.labels("unavailable").inc()
            raise
        finally:
            metrics.CALLBACK_SECONDS.observe(time.perf_counter() - started)

    return room


def _receive(store: Store) -> ResponseReturnValue:
    report_id, received_at = esms.new_id(), datetime.now(UTC)
    query = request.query_string
    body, whole = _read_body(esms.BODY_LIMIT + 1)
    try:
        _insist_on(whole=whole)
        report = esms.parse_callback(
            query,
            body,
            request.content_type,
            report_id=report_id,
            received_at=received_at,
            remote_addr=request.remote_addr,
        )
        (effect,) = store.record([report], received_at)
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, what came is kept
        reason = _reason(error)
        rejected = Rejected(
            id=report_id,
            received_at=received_at,
            remote_addr=request.remote_addr,
            method=request.method,
            content_type=_storable(request.content_type),
            payload=esms.storable_request(query, body),
            reason=reason,
        )
        store.reject(rejected)
        log.warning("callback rejected: %s", reason)
        metrics.CALLBACKS.labels("rejected").inc()
        return {"error": reason}, 400
    log.info("callback %s %s", report.reference_id, effect)
    metrics.CALLBACKS.labels(effect).inc()
    return {"result": effect}


def _read_body(at_most: int) -> tuple[bytes, bool]:
    """The body's beginning, and whether it came as it was announced.

    One byte more than is allowed tells that it is too long, and the rest is never read.
    """
    request.max_content_length = None
    body = b""
    try:
        while len(body) < at_most and (part := request.stream.read(at_most - len(body))):
            body += part
    except Exception:  # noqa: BLE001 - the server's own, for broken chunks and connections that ended
        return body, False
    return body, len(body) >= min(request.content_length or 0, at_most)


def _insist_on(*, whole: bool) -> None:
    """Take no body that was cut: the last of its values would be another than eSMS said."""
    if not whole:
        raise esms.Unreadable("body: ended before it was whole")


def _reason(error: Exception) -> str:
    if isinstance(error, esms.Unreadable):
        return str(error)
    if isinstance(error, DataError | IntegrityError):
        return "The database refuses a value of this report"
    log.error("a callback could not be taken; this is a bug", exc_info=error)
    return "This server could not read it"


def _storable(header: str | None) -> str | None:
    return header[: esms.TEXT_LIMIT].replace("\0", "") if header else None
