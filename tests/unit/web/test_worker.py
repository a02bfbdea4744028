"""What the worker answers when a request cannot be served."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http.errors import InvalidRequestLine

from webapp.web.worker import Worker


class Sent:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.content = b""

    def sendall(self, content: bytes) -> None:
        self.content += content

    def flush(self) -> None:
        """Everything is kept already."""


@pytest.mark.parametrize(
    ("error", "status", "logged"),
    [
        (InvalidRequestLine("GET /esms/callback/the-token"), b"400 Bad Request", "cannot be read"),
        (UnicodeDecodeError("ascii", b"the-token", 0, 1, "odd"), b"400 Bad Request", "cannot be read"),
        (KeyError("odd"), b"503 Service Unavailable", "this is a bug"),
    ],
)
def test_a_bug_is_answered_503_and_logged_whole_and_a_broken_request_400_without_a_word_of_it(
    error: Exception, status: bytes, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection: Any = Sent()
    worker: Any = SimpleNamespace(log=logging.getLogger("worker"))

    Worker.handle_error(worker, None, connection, ("203.0.113.7", 1), error)

    assert connection.content.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert (b"Retry-After" in connection.content) == (status[:3] == b"503")
    assert b"token" not in connection.content
    assert logged in caplog.text
    assert (caplog.records[0].exc_info is not None) == (status[:3] == b"503")
