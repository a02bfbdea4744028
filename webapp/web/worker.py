"""The gunicorn worker: gevent's, with limits on what one connection may cost all others.

After each answer the worker yields to the event loop, so that other connections are served; a client that pipelines
requests is slowed down. Answers that refuse a request close the connection without reading its body. Idle connections
close when the worker ends (SIGTERM).
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from webapp.support import log, log_context
from webapp.web import answer_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIApplication, WSGIEnvironment

_CROWDED_SECONDS = 1
"""Time for a request to come while more than half of the possible connections are open."""
_SEND_SECONDS = 60
_SHORTEST_WAIT_SECONDS = 0.001
_GATHERED_BYTES = 16 * 1024
_LINGER_SECONDS = 2.0
_FIRST_REQUEST_SECONDS = 3.0
_LINGER_BYTES = 16 * 1024 * 1024
_LINGER_PORTION = 64 * 1024
_DISCARD_PAUSE_SECONDS = 0.001
_PIPELINED_PAUSE_SECONDS = 0.01
"""Pauses of a connection that need not wait for its client. They end by a timer, for gevent looks at its sockets before
its timers: ready greenlets that only yield (``sleep(0)``) go on up to 50 times before it does."""
_REFUSALS = ("401", "404", "405", "413")
_UNAVAILABLE = b'{"error":"Internal error; send the request again later."}\n'
_UNREADABLE = b'{"error":"This is no HTTP request that can be read."}\n'


class Connection:
    """A client's socket that limits the time of what is received and sends an answer in one piece.

    An answer's head and body sent apart cost twice as much.
    """

    def __init__(self, client: Any) -> None:
        """Wrap the socket ``client``."""
        self._client = client
        self._received = b""
        self._unsent: list[bytes] = []
        self._seconds: float | None = None
        self._until = 0.0
        self._waiting = False
        self._ended = False
        self._more_came_before_the_answer = False
        self._invitation = b""
        self.answers = 0
        self.request: Any = None

    def __getattr__(self, name: str) -> Any:
        """Whatever else a socket has."""
        return getattr(self._client, name)

    def gettimeout(self) -> float | None:
        """The limit in seconds."""
        return self._seconds

    def settimeout(self, seconds: float | None) -> None:
        """Give everything that is received from now on ``seconds`` to come, all together."""
        self._seconds = seconds
        self._until = time.monotonic() + (seconds or 0)

    def recv(self, size: int) -> bytes:
        """Bytes from the client, b"" at their end; raises TimeoutError."""
        if self._received:
            received, self._received = self._received[:size], self._received[size:]
            return received
        if self._invitation:
            invitation, self._invitation = self._invitation, b""
            self._client.settimeout(_SEND_SECONDS)
            self._client.sendall(invitation)
        self._client.settimeout(
            None if self._seconds is None else max(_SHORTEST_WAIT_SECONDS, self._until - time.monotonic())
        )
        content: bytes = self._client.recv(size)
        self._waiting = False
        self._ended = not content
        return content

    def unread(self, content: bytes) -> None:
        """Put back what was received and not used."""
        self._received = content + self._received

    def send(self, content: bytes) -> int:
        """Send once something is read: gunicorn invites the body (100 Continue) also where the answer refuses it."""
        self._invitation = content
        return len(content)

    def sendall(self, content: bytes) -> None:
        """Send, now or with what follows."""
        self._unsent.append(content)
        if sum(map(len, self._unsent)) > _GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._unsent:
            content, self._unsent = b"".join(self._unsent), []
            self._invitation = b""
            self.answers += 1
            self._client.settimeout(0)
            try:
                self._more_came_before_the_answer = bool(self._client.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                self._more_came_before_the_answer = False
            self._client.settimeout(_SEND_SECONDS)
            # gevent's sendall asks the kernel for the size of its buffer each time; most answers fit into it.
            if unsent := content[self._client.send(content) :]:
                self._client.sendall(unsent)

    def expect_request(self, seconds: float) -> None:
        """Give the next request's head ``seconds`` to come."""
        self.settimeout(seconds)
        self._waiting = not self._received

    @property
    def pipelines(self) -> bool:
        """Whether the client sent more before it had its answer, which eSMS and proxies do not."""
        return bool(self._received) or self._more_came_before_the_answer

    def end_if_idle(self) -> None:
        """Let a connection that waits for a request end. A request that is here already is answered."""
        if self._waiting:
            with suppress(OSError):
                # What the kernel received before is still read; then the end is read.
                self._client.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close so that the last answer arrives: wait a moment for the client to close, too.

        The kernel resets a connection that is closed with unread data, and the client may lose the answer.
        """
        with suppress(OSError):
            if self.answers and not self._ended:
                self._client.shutdown(socket.SHUT_WR)
                self._discard()
        self._client.close()

    def _discard(self) -> None:
        until, left = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
        while left > 0 and (seconds := until - time.monotonic()) > 0:
            self._client.settimeout(seconds)
            discarded = len(self._client.recv(_LINGER_PORTION))
            if not discarded:
                return
            left -= discarded
            gevent.sleep(_DISCARD_PAUSE_SECONDS)


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves HTTP/1 without TLS, as behind a proxy."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As gunicorn's."""
        super().__init__(*arguments, **options)
        self._connections: set[Connection] = set()
        self._addresses: dict[Any, Any] = {}

    def patch(self) -> None:
        """Prepare the listening sockets; their names are asked for after they are closed."""
        super().patch()
        self._addresses = {listener: listener.getsockname() for listener in self.sockets}

    def load_wsgi(self) -> None:
        """Load the application. From now on gevent logs what ends a greenlet; it would print it, secrets included."""
        gevent.get_hub().print_exception = _log_exception
        super().load_wsgi()
        self.wsgi: WSGIApplication = _closing_after_refusals(self.app.wsgi())

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM: take no new connections, answer what has come, close idle connections at once."""
        super().handle_exit(sig, frame)
        for connection in list(self._connections):
            self._end_idle(connection)

    def _end_idle(self, connection: Connection) -> None:
        """End the connection if it is idle; a new one has three seconds for its first request."""
        if connection.answers:
            connection.end_if_idle()
        else:
            gevent.spawn_later(_FIRST_REQUEST_SECONDS, connection.end_if_idle)

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve one connection."""
        connection = Connection(client)
        self._connections.add(connection)
        try:
            while self.answer_next(self._addresses[listener], connection, address):
                gevent.sleep(_PIPELINED_PAUSE_SECONDS if connection.pipelines else 0)
        except OSError as error:
            self.log.debug("a connection ended: %s", error)
        except Exception as error:  # noqa: BLE001 - what gunicorn's parser raises, and bugs
            self.handle_error(None, connection, address, error)
        finally:
            self._connections.discard(connection)
            connection.close()

    def answer_next(self, server: Any, connection: Connection, address: Any) -> bool:
        """Answer the next request; False if it was the last one, or none came."""
        self.expect_request(connection)
        return self.answer_expected(server, connection, address)

    def answer_expected(self, server: Any, connection: Connection, address: Any) -> bool:
        """The same, where the time for its head runs already."""
        parser = RequestParser(self.cfg, connection, address)
        try:
            request = next(parser)
        except (StopIteration, NoMoreData, TimeoutError):
            return False
        connection.request = request
        try:
            self.handle_request(server, request, connection, address)
        except StopIteration:
            return False
        finally:
            connection.flush()
        connection.unread(parser.unreader.buf.getvalue())
        return True

    def expect_request(self, connection: Connection) -> None:
        """Limit the time until the next request has come; at the worker's end, a kept connection gets none."""
        log_context.current.set(None)
        crowded = len(self._connections) > self.worker_connections // 2
        connection.expect_request(_CROWDED_SECONDS if crowded else self.cfg.keepalive)
        if not self.alive:
            self._end_idle(connection)

    def handle_error(self, _request: object, connection: Any, address: Any, error: BaseException) -> None:
        """Answer a request that cannot be read. The answer repeats nothing of it: it may hold the callback token.

        A bug is answered 503, so that eSMS sends the callback again.
        """
        if isinstance(error, ParseException | UnicodeError):
            self.log.warning("request from %s cannot be read: %s", address and address[0], type(error).__name__)
            status, body = "400 Bad Request", _UNREADABLE
        else:
            self.log.error("request from %s answered 503; this is a bug", address and address[0], exc_info=error)
            status, body = "503 Service Unavailable\r\nRetry-After: 10", _UNAVAILABLE
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{answer_headers.LINES}"
        )
        with suppress(OSError):
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
            connection.flush()


def _log_exception(_greenlet: object, kind: Any, error: Any, traceback: Any) -> None:
    log.unhandled(kind, error, traceback)


def _closing_after_refusals(application: WSGIApplication) -> WSGIApplication:
    """The application, but an answer that refuses a request is the last one on its connection."""

    def refusing(environ: WSGIEnvironment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        connection: Connection = environ["gunicorn.socket"]

        def start(status: str, *arguments: Any) -> Any:
            if status.startswith(_REFUSALS):
                connection.request.force_close()
            return start_response(status, *arguments)

        return application(environ, start)

    return refusing
