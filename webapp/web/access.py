"""The access log and the request counters: one line and one count for every request, whatever its route."""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import g, request

from webapp.callbacks.views import Answer
from webapp.calls.report import EFFECTS
from webapp.support import log, metrics
from webapp.support.settings import CALLBACK_PATH

if TYPE_CHECKING:
    from flask import Flask, Response
    from prometheus_client import Counter

_log = logging.getLogger("access")
_OTHER_RESULTS = ("other-channel", "spooled", "rejected", "unavailable")
_COUNTED_METHODS = {"GET", "POST"}
_ABOUT_CALLBACKS = ("effect", "reference_id", "reason")


def init_app(app: Flask) -> None:
    """Log and count every request that Flask answers."""

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()
        g.answer = None

    @app.after_request
    def record_answer(response: Response) -> Response:
        # The rule of the route, not its path: a path may hold a token, and a sender could forge lines and labels.
        route = request.url_rule.rule if request.url_rule else "unknown"
        seconds = time.perf_counter() - g.started
        answer = g.answer
        if request.url_rule is None and request.path.startswith(CALLBACK_PATH.removesuffix("/")):
            answer = Answer(response.status_code, {}, {}, reason="not the path of a CallbackUrl")
        record(request.remote_addr, request.method, route, response.status_code, seconds, answer)
        return response


def begin_counts(app: Flask) -> None:
    """Count from 0 what alerts watch: Prometheus sees no increase in a series that begins with its first event."""
    for result in (*EFFECTS, *_OTHER_RESULTS):
        _callbacks(result)
    for rule in app.url_map.iter_rules():
        for method in _COUNTED_METHODS & (rule.methods or set()):
            _requests(rule.rule, method, "500")


def record(
    remote_addr: str | None, method: str, route: str, status: int, seconds: float, answer: Answer | None = None
) -> None:
    """Log and count one request; ``answer`` is that of a callback."""
    method = method if method in metrics.METHODS else "other"
    _requests(route, method, str(status)).inc()
    if answer and answer.effect:
        _callbacks(answer.effect).inc()
        metrics.CALLBACK_SECONDS.observe(seconds)
    milliseconds = seconds * 1000
    said = "".join([f" {word}" for word in answer[-3:] if word]) if answer else ""

    def fields() -> dict[str, Any]:
        found = {"event": "request", "remote_addr": remote_addr, "method": method, "route": route, "status": status}
        about = zip(_ABOUT_CALLBACKS, answer[-3:] if answer else (), strict=False)
        return found | {"milliseconds": round(milliseconds, 1)} | {name: word for name, word in about if word}

    log.info(_log, f"{remote_addr} {method} {route} {status} {milliseconds:.1f}ms{said}", fields)


@cache
def _requests(route: str, method: str, status: str) -> Counter:
    return metrics.REQUESTS.labels(route, method, status)


@cache
def _callbacks(result: str) -> Counter:
    return metrics.CALLBACKS.labels(result)
