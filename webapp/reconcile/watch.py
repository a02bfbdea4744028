"""Reconcile as a service: run after run until it is stopped, through outages of the database and of eSMS.

It reports to systemd (sd_notify(3)) and at a health endpoint that it is working.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from webapp.reconcile.run import Progress, Reconciler
from webapp.storage.claims import due_at
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.storage.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.esms.client import Client
    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter
    from webapp.support.settings import Settings

LONGEST_DATABASE_PAUSE = timedelta(seconds=30)
"""Between two tries while the database cannot be used: work goes on soon after it is back."""
SHORTEST_ESMS_PAUSE = timedelta(minutes=1)
"""Between two runs while eSMS does not answer, or refuses the account."""

_LONGEST_WITHOUT_RUN_SECONDS = 1200.0
"""``status`` takes half an hour without a run for a reconcile that has stopped, as soon as a call is due."""
_HUNG_AFTER_SECONDS = 300.0
"""Without progress for longer, the service hangs; a database that hangs holds it up for less."""
_LONGEST_PING_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DatabaseChange:
    """The database cannot be used: ``problem`` says why, without a secret. Or it can be again: None."""

    problem: str | None


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is due at the start: a sign that the service works."""


class Watch:
    """Makes one run after another."""

    def __init__(self, database: Database, client: Client, settings: Settings, watchdog: Watchdog) -> None:
        """Prepare; nothing is asked yet. ``watchdog`` gets a ping for every step of the work."""
        self._database = database
        self._client = client
        self._settings = settings
        self._watchdog = watchdog
        self._broken: Reconciler | None = None

    def runs(
        self, *, grace: timedelta | None, within: CallFilter, every: timedelta, stop: threading.Event
    ) -> Iterator[Progress | DatabaseChange | Idle]:
        """Run every so often until ``stop`` is set.

        Yields each run, each change of the database, and Idle if nothing is due at the start. Where no call is due, a
        run is made every 20 minutes.
        """
        problem: str | None = None
        idle_at_start = True
        ran_at = time.monotonic()
        while not stop.is_set():
            is_late = time.monotonic() - ran_at >= _LONGEST_WITHOUT_RUN_SECONDS
            try:
                progress = self._run(grace, within, stop, is_late=is_late)
            except (Unavailable, NotMigrated) as error:
                if str(error) != problem:
                    problem = str(error)
                    yield DatabaseChange(problem)
                pause = min(every, LONGEST_DATABASE_PAUSE)
            else:
                if problem:
                    problem = None
                    yield DatabaseChange(None)
                if progress and not progress.all_claimed_by_others:
                    ran_at = time.monotonic()
                    yield progress
                elif idle_at_start:
                    yield Idle()
                idle_at_start = False
                pause = max(every, SHORTEST_ESMS_PAUSE) if progress and progress.ended else every
            self._watchdog.sleep(pause, stop)

    def _run(
        self, grace: timedelta | None, within: CallFilter, stop: threading.Event, *, is_late: bool
    ) -> Progress | None:
        """One run, if a call is due, or the last run is long ago."""
        self._database.check()
        if self._broken:
            self._broken.close_broken_run()
            self._broken = None
        due = due_at(self._database.now(), self._settings, grace=grace, within=within)
        if not is_late and not Reader(self._database).any_due(due):
            return None
        reconciler = Reconciler(self._database, self._client, self._settings)
        try:
            return reconciler.run(due, limit=None, stop=stop, watch=lambda _: self._watchdog.ping())
        except Unavailable:
            self._broken = reconciler
            raise


class Watchdog:
    """Whether the service is working; notifies systemd of it if NOTIFY_SOCKET is set."""

    def __init__(self) -> None:
        """Working from now on."""
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        half = int(microseconds) / 2e6 if microseconds.isdecimal() else _LONGEST_PING_INTERVAL_SECONDS
        self._interval_seconds = min(half, _LONGEST_PING_INTERVAL_SECONDS)
        self._pinged_at = time.monotonic()
        self._notified_at = float("-inf")

    @property
    def hung(self) -> bool:
        """Whether the last ping is too long ago."""
        return time.monotonic() - self._pinged_at >= _HUNG_AFTER_SECONDS

    def ping(self) -> None:
        """The service is working."""
        self._pinged_at = time.monotonic()
        if self._pinged_at - self._notified_at >= self._interval_seconds:
            self._notified_at = self._pinged_at
            self.notify("WATCHDOG=1")

    def notify(self, state: str) -> None:
        """Send a state such as ``READY=1`` to systemd; errors are ignored, for systemd notices silence by itself."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.sendto(state.encode(), address)

    def sleep(self, pause: timedelta, stop: threading.Event) -> None:
        """Wait, with pings, until the pause is over or ``stop`` is set."""
        until = time.monotonic() + pause.total_seconds()
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            self.ping()
            stop.wait(min(left, self._interval_seconds))


@contextmanager
def health_endpoint(port: int | None, watchdog: Watchdog) -> Iterator[None]:
    """Answer at ``http://127.0.0.1:port/healthz``: 200 while the service is working, else 503; None: no endpoint.

    Raises OSError if the port is taken.
    """
    if port is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.partition("?")[0] == "/healthz"
            status, words = (404, "not found") if not known else (503, "hangs") if watchdog.hung else (200, "ok")
            body = f"{words}\n".encode()
            self.send_response(status)
            for name, value in (("Content-Type", "text/plain"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: there is a request every few seconds."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
