"""The CallbackUrl: a Flask view that stores what eSMS sends and answers what storing it did."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from flask import Blueprint, g, request
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Rule

from webapp.callbacks.request import read_request
from webapp.callbacks.store import NotAccepted, OtherChannel
from webapp.storage.errors import Unavailable
from webapp.support.addresses import is_in
from webapp.support.settings import CALLBACK_PATH
from webapp.support.tokens import matching

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIEnvironment

    from flask.blueprints import BlueprintSetupState
    from flask.typing import ResponseReturnValue

    from webapp.callbacks.ingest import Ingest
    from webapp.callbacks.token_counter import TokenCounter
    from webapp.support.addresses import Network
    from webapp.support.token_redaction import TokenRedactor

ROUTE = f"{CALLBACK_PATH}<token>"
RETRY_AFTER_SECONDS = 10
_METHODS = ("GET", "POST")
_BODY_SHARE = 0.4
"""Part of ANSWER_WITHIN that a body may take to come. What it takes is not left for the database and the spool."""

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """An answer to a callback. ``effect`` is the word that log and counters have for it; ``reason`` is for the log."""

    status: int
    words: dict[str, str]
    headers: dict[str, str]
    effect: str = ""
    reference_id: str = ""
    reason: str = ""


class CallbackNotFound(NotFound):
    """A 404 whose ``reason`` stands in the log, and not in the answer."""

    def __init__(self, reason: str) -> None:
        """The answer has werkzeug's words."""
        super().__init__()
        self.reason = reason


class Receiver:
    """Answers requests to the CallbackUrl, for the Flask view and for the fast path."""

    def __init__(
        self,
        ingest: Ingest,
        tokens: Callable[[], tuple[str, ...]],
        counter: TokenCounter,
        redact: TokenRedactor,
        allowed: tuple[Network, ...] | None = None,
    ) -> None:
        """``tokens`` gives those that are accepted; ``redact`` takes callback tokens out of what is stored.

        ``allowed``: the networks that callbacks are taken from; None: from all.
        """
        self._ingest = ingest
        self._tokens = tokens
        self._counter = counter
        self._redact = redact
        self._allowed = allowed

    def receive(self, token: str, environ: WSGIEnvironment) -> Answer:
        """Store the callback, and answer 200 once it is durable, 400 if it cannot be read, 503 if it is not stored.

        Raises CallbackNotFound for a wrong token or an address that is not allowed, before anything else of the
        request is looked at, whatever its method; and MethodNotAllowed.
        """
        accepted = matching(token, self._tokens())
        if accepted is None:
            self._counter.count_wrong()
            raise CallbackNotFound("wrong token")
        if self._allowed is not None and not is_in(environ.get("REMOTE_ADDR"), self._allowed):
            if environ["REQUEST_METHOD"] in _METHODS:  # Doctor's HEAD is no callback, and no cause for alarm.
                self._counter.count_not_allowed()
            raise CallbackNotFound("address not allowed")
        if environ["REQUEST_METHOD"] not in _METHODS:
            raise MethodNotAllowed(_METHODS)
        self._counter.count_right(accepted)
        began = time.monotonic()
        try:
            callback = read_request(environ, self._ingest.answer_seconds * _BODY_SHARE, self._redact)
            outcome = self._ingest.receive(callback, began)
        except Unavailable as problem:
            log.error("callback answered 503: %s", problem)  # noqa: TRY400 - the message says all
            return _unavailable()
        except Exception:
            log.exception("callback answered 503; this is a bug")
            return _unavailable()
        if isinstance(outcome, NotAccepted):
            log.warning("callback rejected: %s", outcome.reason)
            return Answer(400, {"error": outcome.reason}, {}, "rejected")
        if isinstance(outcome, OtherChannel):
            return Answer(200, {"result": "other-channel"}, {}, "other-channel")
        return Answer(200, {"result": outcome.result}, {}, outcome.result, outcome.reference_id)


def _unavailable() -> Answer:
    words = "This callback cannot be stored now; send it again later."
    return Answer(503, {"error": words}, {"Retry-After": str(RETRY_AFTER_SECONDS)}, "unavailable")


def blueprint(receiver: Receiver) -> Blueprint:
    """The route ``/esms/callback/<token>``."""
    callbacks = Blueprint("callbacks", __name__)

    # A slash behind the token changes nothing (seen: customers write one before the ?).
    @callbacks.route(ROUTE, endpoint="receive", methods=_METHODS, provide_automatic_options=False, strict_slashes=False)
    def receive(token: str) -> ResponseReturnValue:
        try:
            g.answer = answer = receiver.receive(token, request.environ)
        except CallbackNotFound as error:
            g.answer = Answer(error.code, {}, {}, reason=error.reason)
            raise
        return answer.words, answer.status, answer.headers

    @callbacks.record_once
    def route_other_methods(state: BlueprintSetupState) -> None:
        """Send all other methods to the view, too: with a wrong token they get a 404, and not Flask's 405."""
        state.app.url_map.add(Rule(ROUTE, endpoint="callbacks.receive", strict_slashes=False))

    return callbacks
