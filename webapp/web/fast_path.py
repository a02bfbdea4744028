"""A worker that reads the usual callback without gunicorn's parser and without Flask; FAST_PATH=off does without it.

The usual callback is a GET with a query string and without a body (*documented*). It goes through the same functions as
in the Flask view, and gets the same answer, log line and counts. Every other request is left to the ordinary worker.
"""

from __future__ import annotations

import json
import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn import SERVER

from webapp.callbacks.views import ROUTE, Answer, CallbackNotFound
from webapp.support.settings import CALLBACK_PATH
from webapp.web import access, answer_headers
from webapp.web.proxies import behind_proxies
from webapp.web.worker import Connection, Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIEnvironment

    from webapp.callbacks.views import Receiver
    from webapp.web.ops import OpsAddress

_to_json = json.JSONEncoder(separators=(",", ":")).encode
LONGEST_REQUEST_BYTES = 8192
"""Bytes of the longest request that is read here; gunicorn reads as many at a time."""

_LINE = re.compile(rf"GET ({CALLBACK_PATH}[A-Za-z0-9._~-]+)/?(?:\?([!\"$-~]*))? HTTP/1\.1")
_HEADER = re.compile(r"([A-Za-z0-9-]+):([\t -~]*)")
_HOST = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*(?::[1-9][0-9]{0,4})?")
_HOSTS = {"HTTP_HOST", "HTTP_X_FORWARDED_HOST"}
_UNUSUAL = {
    "HTTP_CONTENT_LENGTH",
    "HTTP_CONTENT_TYPE",
    "HTTP_EXPECT",
    "HTTP_SCRIPT_NAME",
    "HTTP_TRANSFER_ENCODING",
    "HTTP_UPGRADE",
}


def read(content: bytes, remote_addr: str, cfg: Any) -> tuple[WSGIEnvironment, int] | None:
    """The usual callback at the beginning of ``content`` and its length in bytes; None for anything else.

    The environment is gunicorn's, without what it has of bodies and servers.
    """
    end = content.find(b"\r\n\r\n")
    if end < 0:
        return None
    line, *lines = content[:end].decode("latin-1").split("\r\n")
    usual = _LINE.fullmatch(line)
    if usual is None or len(line) > cfg.limit_request_line or len(lines) > cfg.limit_request_fields:
        return None
    environ: WSGIEnvironment = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": remote_addr}
    for header in lines:
        found = _HEADER.fullmatch(header)
        if found is None or len(header) + 2 > cfg.limit_request_field_size:
            return None
        name = f"HTTP_{found[1].upper().replace('-', '_')}"
        value = found[2].strip("\t ")
        if name in environ or name in _UNUSUAL or (name in _HOSTS and not _HOST.fullmatch(value)):
            return None
        environ[name] = value
    if environ.get("HTTP_CONNECTION", "keep-alive").lower() not in {"keep-alive", "close"}:
        return None
    environ["PATH_INFO"] = usual[1]
    environ["QUERY_STRING"] = usual[2] or ""
    return environ, end + 4


class FastWorker(Worker):
    """Answers usual callbacks faster."""

    def load_wsgi(self) -> None:
        """Load the application, and take its receiver of callbacks."""
        super().load_wsgi()
        flask = self.app.wsgi()
        self._ops_address: OpsAddress | None = flask.extensions.get("ops_address")
        self._receiver: Receiver = flask.extensions["receiver"]
        # What wraps a WSGI application gives back what that gives back.
        wrapped: Any = behind_proxies(self._receive, flask.config["TRUSTED_PROXIES"])  # type: ignore[arg-type]
        self._application: Callable[[WSGIEnvironment, None], Answer] = wrapped

    def answer_next(self, server: Any, connection: Connection, address: Any) -> bool:
        """Answer the next request; False if it was the last one, or none came."""
        if self._ops_address and self._ops_address.is_at(server):
            return super().answer_next(server, connection, address)
        self.expect_request(connection)
        try:
            content = connection.recv(LONGEST_REQUEST_BYTES)
        except TimeoutError:
            return False
        usual = read(content, address[0] if isinstance(address, tuple) else "", self.cfg)
        if usual is None:
            connection.unread(content)
            return bool(content) and self.answer_expected(server, connection, address)
        environ, length = usual
        connection.unread(content[length:])
        return self._answer(environ, connection)

    def _answer(self, environ: WSGIEnvironment, connection: Connection) -> bool:
        answer = self._application(environ, None)
        body = _to_json(answer.words).encode() + b"\n"
        closing = answer.status == HTTPStatus.NOT_FOUND or environ.get("HTTP_CONNECTION", "").lower() == "close"
        last = closing or not self.alive
        further = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        head = (
            f"HTTP/1.1 {_status_line(answer.status)}\r\nServer: {SERVER}\r\nDate: {_date(int(time.time()))}\r\n"
            f"Connection: {'close' if last else 'keep-alive'}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{further}{answer_headers.LINES}\r\n"
        )
        connection.sendall(head.encode("latin-1") + body)
        connection.flush()
        return not last

    def _receive(self, environ: WSGIEnvironment, _start_response: object) -> Answer:
        """Answer a usual callback, like Flask's view."""
        started = time.perf_counter()
        try:
            answer = self._receiver.receive(environ["PATH_INFO"].removeprefix(CALLBACK_PATH), environ)
        except CallbackNotFound as error:
            answer = Answer(error.code, {"error": str(error.description)}, {}, reason=error.reason)
        seconds = time.perf_counter() - started
        access.record(environ["REMOTE_ADDR"], "GET", ROUTE, answer.status, seconds, answer)
        return answer


@lru_cache
def _status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase.upper()}"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
