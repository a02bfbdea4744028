"""The usual callback as it stands on the wire: read and answered as WSGI has it, at a fifth of what gunicorn takes.

Knows the one form in which callbacks come (*documented*: a GET with a query string, without a body). What is not
exactly that is None here, and for gunicorn to judge.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from webapp.support.settings import CALLBACK_PATH

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

LONGEST = 8192
"""Bytes of the longest request that is read here."""

_USUAL = re.compile(
    rf"GET ({CALLBACK_PATH}[A-Za-z0-9._~-]*)(?:\?([!\"$-~]*))? HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[\t -~]*\r\n)*)\r\n"
)
_HEADER = re.compile(r"([^:]+):[\t ]*(.*?)[\t ]*\r\n")
_UNUSUAL = {f"HTTP_{name}" for name in ("CONTENT_LENGTH", "CONTENT_TYPE", "EXPECT", "TRANSFER_ENCODING", "UPGRADE")}


def read(content: bytes, remote_addr: str) -> WSGIEnvironment | None:
    """One whole usual callback and nothing behind it, without what WSGI has of bodies and servers."""
    usual = _USUAL.fullmatch(content.decode("latin-1"))
    if usual is None:
        return None
    path, query, head = usual.groups()
    headers = _HEADER.findall(head)
    environ: WSGIEnvironment = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers}
    if len(environ) < len(headers) or not environ.keys().isdisjoint(_UNUSUAL):
        return None
    if environ.get("HTTP_CONNECTION", "keep-alive").lower() not in {"keep-alive", "close"}:
        return None
    environ["REQUEST_METHOD"] = "GET"
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = query or ""
    environ["REMOTE_ADDR"] = remote_addr
    return environ


def answer(app: WSGIApplication, environ: WSGIEnvironment, *, server: str, last: bool) -> bytes:
    """What ``app`` answers, in one piece and in gunicorn's words; the ``last`` on its connection says that it is."""
    said: list[Any] = []
    body = b"".join(app(environ, lambda *words: said.extend(words)))  # type: ignore[arg-type]
    status, headers = said
    connection = "close" if last else "keep-alive"
    further = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status}\r\nServer: {server}\r\nDate: {_date(int(time.time()))}\r\nConnection: {connection}\r\n"
    return f"{head}{further}\r\n".encode("latin-1") + body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
