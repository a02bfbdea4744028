"""Servers that answer look-ups as a test says, and what each fault of the sandbox must become."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import trustme

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

    def __init__(self, talk: Callable[[Peer, socket.socket], None], tls: ssl.SSLContext | None = None) -> None:
        """Listen on any free port; with ``tls`` it speaks https."""
        self.connections = 0
        self.requests: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._talk = talk
        self._tls = tls
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
        with suppress(OSError), self._tls.wrap_socket(line, server_side=True) if self._tls else line as stream:
            self._talk(self, stream)


@contextmanager
def peer(talk: Callable[[Peer, socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    served = Peer(talk, tls)
    try:
        yield served
    finally:
        served.close()


def replying(*head: str, body: str = "") -> Callable[[Peer, socket.socket], None]:
    """Every request of a connection is answered so, and the connection kept."""

    def talk(served: Peer, line: socket.socket) -> None:
        while served.read(line):
            length = f"Content-Length: {len(body.encode())}"
            line.sendall("\r\n".join([*head, length, "", body]).encode())

    return talk


def saying(**fields: object) -> Callable[[Peer, socket.socket], None]:
    """Every request is answered 200 with this JSON object."""
    return replying("HTTP/1.1 200 OK", body=json.dumps(fields))


def new_authority() -> trustme.CA:
    """One that signs certificates."""
    import trustme

    return trustme.CA()


def server_context(
    issuer: trustme.CA, *identities: str, not_before: datetime | None = None, not_after: datetime | None = None
) -> ssl.SSLContext:
    """TLS for a server with a certificate of this CA for these names and addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(*identities, not_before=not_before, not_after=not_after).configure_cert(context)
    return context


class ConnectProxy(Peer):
    """An HTTP proxy that connects to wherever it is asked; keeps the heads of all requests, and what passed it."""

    def __init__(self, refusal: str = "") -> None:
        """``refusal``: the status line that every request gets instead."""
        self.passed = b""
        self._refusal = refusal
        super().__init__(lambda _, line: self._connect(line))

    def _connect(self, line: socket.socket) -> None:
        method, target, *_ = self.read(line).split(" ")
        if self._refusal or method != "CONNECT":
            line.sendall(f"HTTP/1.1 {self._refusal or '405 Method Not Allowed'}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            line.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._open.append(onward)
            back = threading.Thread(target=self._pass, args=(onward, line))
            back.start()
            self._pass(line, onward)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                self.passed += piece
                sink.sendall(piece)
        for line in (source, sink):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


@contextmanager
def connect_proxy(refusal: str = "") -> Iterator[ConnectProxy]:
    proxy = ConnectProxy(refusal)
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def dead_address(family: socket.AddressFamily = socket.AF_INET6) -> Iterator[tuple[str, int]]:
    """An address of this machine that answers no connection, and refuses none: those that wait there fill its queue."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family))
        listening.bind((host, 0))
        listening.listen(0)
        address = listening.getsockname()[:2]
        for _ in range(8):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)  # noqa: FBT003
            waiting.connect_ex(address)
        yield address
