"""Servers that answer look-ups as a test says, and what each fault of the sandbox must become."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWERS = {
    "http-500": ("http-500", False, "failed"),
    "http-503": ("http-503", False, "failed"),
    "http-429": ("http-429", True, "failed"),
    "later": ("http-503", False, "failed"),
    "later-date": ("http-429", True, "failed"),
    "redirect": ("http-302", True, "failed"),
    "hang": ("timeout", False, "failed"),
    "drip": ("timeout", False, "failed"),
    "drip-header": ("timeout", False, "failed"),
    "reset": ("unreachable", False, "failed"),
    "garbage": ("unreadable", True, "failed"),
    "html": ("unreadable", True, "failed"),
    "huge": ("unreadable", True, "failed"),
    "bom": ("100", True, "final"),
    "wrong-reference": ("wrong-reference", True, "failed"),
    "no-reference": ("100", True, "final"),
    "not-final": ("100", True, "pending"),
    "nothing-said": ("100", True, "pending"),
    "unknown-code": ("999", True, "failed"),
    "99": ("99", True, "pending"),
    "101": ("101", True, "failed"),
    "104": ("104", True, "not_found"),
    "105": ("105", True, "not_found"),
    "140": ("140", True, "failed"),
    "143": ("143", True, "failed"),
    "160": ("160", True, "failed"),
}
"""What each fault of the sandbox is to us: code, whether eSMS answered, kind."""


class Peer:
    """A server that talks to each connection as the test says, and keeps the requests that it received."""

    def __init__(self, talk: Callable[[Peer, socket.socket], None]) -> None:
        """Listen on any free port."""
        self.connections = 0
        self.requests: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._talk = talk
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def read(self, line: socket.socket) -> str:
        """The next request; empty when the client is gone."""
        request = b""
        while not request.endswith(b"\r\n\r\n") and (byte := line.recv(1)):
            request += byte
        if request:
            self.requests.append(request.decode())
        return request.decode()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for line in self._open:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                self.connections += 1
                self._open.append(line)
                self._threads.append(threading.Thread(target=self._serve, args=(line,)))
                self._threads[-1].start()

    def _serve(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            self._talk(self, line)


@contextmanager
def peer(talk: Callable[[Peer, socket.socket], None]) -> Iterator[Peer]:
    served = Peer(talk)
    try:
        yield served
    finally:
        served.close()
