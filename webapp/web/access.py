"""The access log and the request counters: one line and one count for every request, whatever its route."""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import TYPE_CHECKING

from flask import g, request

from webapp.support import metrics

if TYPE_CHECKING:
    from flask import Flask, Response
    from prometheus_client import Counter

_log = logging.getLogger("access")


def init_app(app: Flask) -> None:
    """Log and count every request that Flask answers."""

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()
        g.outcome = ""

    @app.after_request
    def record_answer(response: Response) -> Response:
        # The rule of the route, not its path: a path may hold a token, and a sender could forge lines and labels.
        route = request.url_rule.rule if request.url_rule else "unknown"
        seconds = time.perf_counter() - g.started
        record(request.remote_addr, request.method, route, response.status_code, seconds, g.outcome)
        return response


def record(
    remote_addr: str | None,
    method: str,
    route: str,
    status: int,
    seconds: float,
    outcome: str = "",
) -> None:
    """Log and count one request. ``outcome`` says what became of a callback, its first word from a closed set."""
    method = metrics.known_method(method)
    _requests(route, method, str(status)).inc()
    if outcome:
        _callbacks(outcome.partition(" ")[0]).inc()
        metrics.CALLBACK_SECONDS.observe(seconds)
        outcome = f" {outcome}"
    _log.info("%s %s %s %d %.1fms%s", remote_addr, method, route, status, seconds * 1000, outcome)


@cache
def _requests(route: str, method: str, status: str) -> Counter:
    return metrics.REQUESTS.labels(route, method, status)


@cache
def _callbacks(result: str) -> Counter:
    return metrics.CALLBACKS.labels(result)
