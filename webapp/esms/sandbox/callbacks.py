"""Sends the sandbox's callbacks, each until it is answered 200 or was sent six times."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

if TYPE_CHECKING:
    from webapp.esms.sandbox.options import Options

MOST_REQUESTS = 6
"""How often a callback is sent until it is answered 200: *documented*, five repeats at the most."""


def checked_callback_url(callback_url: str) -> str:
    """The same URL; raises ValueError if it is none, without showing it: it holds a token."""
    url = urlsplit(callback_url)
    if callback_url and (url.scheme not in {"http", "https"} or not url.hostname):
        raise ValueError("The callback URL must begin with http:// or https:// and a host name.")
    return callback_url


@dataclass(order=True)
class _Callback:
    """A callback to be sent; ``followers`` are the later ones of its call, queued once it was sent for the first time.

    ``order`` decides between two that are due at the same moment.
    """

    due: float
    order: int
    url: str = field(compare=False)
    followers: Sequence[tuple[float, str]] = field(compare=False)
    attempt: int = field(compare=False, default=1)


class CallbackQueue:
    """The queue of callbacks, and the threads that send them.

    ``failures`` counts, by HTTP status or kind of error, the requests that were not answered 200.
    """

    def __init__(self, options: Options) -> None:
        """Send nothing before ``start``."""
        self.planned = self.delivered = self.given_up = 0
        self.failures: Counter[str] = Counter()
        self._options = options
        self._queue: list[_Callback] = []
        self._order = itertools.count()
        self._stopped = False
        lock = threading.Lock()
        self._changed, self._idle = threading.Condition(lock), threading.Condition(lock)
        self._threads = [threading.Thread(target=self._send_all) for _ in range(options.senders)]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; waits for requests in flight, up to ``callback_timeout``."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def add(self, callbacks: Sequence[tuple[float, str]]) -> None:
        """Queue the callbacks of one call, in their order: when (monotonic seconds) and to which URL they go."""
        with self._changed:
            self.planned += len(callbacks)
            self._queue_first(callbacks)

    def wait(self, timeout: float | None) -> bool:
        """Wait until every callback was delivered or given up; False if ``timeout`` seconds were not enough."""
        with self._idle:
            return self._idle.wait_for(lambda: self.finished == self.planned, timeout)

    @property
    def finished(self) -> int:
        """How many were delivered or given up."""
        return self.delivered + self.given_up

    def _queue_first(self, callbacks: Sequence[tuple[float, str]]) -> None:
        if callbacks:
            (due, url), *followers = callbacks
            self._push(_Callback(due, next(self._order), url, followers))

    def _push(self, callback: _Callback) -> None:
        heapq.heappush(self._queue, callback)
        self._changed.notify()

    def _send_all(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while callback := self._next():
                self._conclude(callback, self._send(session, callback.url))

    def _next(self) -> _Callback | None:
        """Wait for the next callback that is due; None once the sandbox stops."""
        with self._changed:
            while not self._stopped:
                pause = self._queue[0].due - time.monotonic() if self._queue else None
                if pause is not None and pause <= 0:
                    self._changed.notify()  # another thread has to wait for the one after it
                    return heapq.heappop(self._queue)
                self._changed.wait(pause)
        return None

    def _send(self, session: requests.Session, url: str) -> str | None:
        """None if it was answered 200, else the failure; never an error's own words, which hold the URL."""
        try:
            answer = session.get(url, timeout=self._options.callback_timeout, allow_redirects=False)
        except (requests.RequestException, ValueError) as error:
            return type(error).__name__
        return None if answer.status_code == HTTPStatus.OK else f"HTTP {answer.status_code}"

    def _conclude(self, callback: _Callback, failure: str | None) -> None:
        with self._changed:
            if callback.attempt == 1:
                self._queue_first(callback.followers)
            if failure is None:
                self.delivered += 1
            else:
                self.failures[failure] += 1
                self._repeat(callback)
            if self.finished == self.planned:
                self._idle.notify_all()

    def _repeat(self, callback: _Callback) -> None:
        if callback.attempt == MOST_REQUESTS:
            self.given_up += 1
        else:
            due = time.monotonic() + self._options.retry_wait
            self._push(replace(callback, due=due, attempt=callback.attempt + 1))
