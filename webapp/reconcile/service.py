"""A command as a long-running service: its signs of life for systemd and for whoever asks over HTTP."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_SILENCE_SECONDS = 300.0
"""A service that gave no sign of life for so long hangs; a database that hangs holds it up for less."""
_LONGEST_REST_SECONDS = 5.0


class Heartbeat:
    """Beats while the service gets on; tells systemd, if it listens (NOTIFY_SOCKET, see sd_notify(3))."""

    def __init__(self) -> None:
        """Begin alive."""
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        wanted = int(microseconds) / 2e6 if microseconds.isdecimal() else _LONGEST_REST_SECONDS
        self._rest_seconds = min(wanted, _LONGEST_REST_SECONDS)
        self._beat_at = time.monotonic()
        self._told_at = float("-inf")

    @property
    def beats(self) -> bool:
        """Whether the service got on of late."""
        return time.monotonic() - self._beat_at < _LONGEST_SILENCE_SECONDS

    def beat(self) -> None:
        """The service gets on."""
        self._beat_at = time.monotonic()
        if self._beat_at - self._told_at >= self._rest_seconds:
            self._told_at = self._beat_at
            self.tell("WATCHDOG=1")

    def tell(self, words: str) -> None:
        """Tell systemd, such as ``READY=1``; a socket that cannot be reached is systemd's to mend."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.sendto(words.encode(), address)

    def rest(self, seconds: float, stop: threading.Event) -> None:
        """Wait, alive, until the time is over or all is to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            self.beat()
            stop.wait(min(left, self._rest_seconds))


@contextmanager
def health(port: int | None, heartbeat: Heartbeat) -> Iterator[None]:
    """Answer at ``http://127.0.0.1:port/healthz``: 200 while the heart beats, else 503; nothing without a port.

    Raises OSError if the port is taken.
    """
    if port is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.partition("?")[0] == "/healthz"
            status, words = (404, "not found") if not known else (200, "ok") if heartbeat.beats else (503, "hangs")
            body = f"{words}\n".encode()
            self.send_response(status)
            for name, value in (("Content-Type", "text/plain"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: it is asked every few seconds."""

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
