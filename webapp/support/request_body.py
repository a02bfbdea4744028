"""Reads a request's body, of a limited length and in a limited time."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIEnvironment

_MOST_PORTIONS = 64
"""A body is read in this many portions: gunicorn copies the rest of what it received for each."""


def read_body(environ: WSGIEnvironment, limit: int, seconds: float) -> tuple[bytes, bool]:
    """The body, and whether it came whole and in time. At most ``limit`` bytes are read."""
    announced = environ.get("CONTENT_LENGTH") or ""
    length = int(announced) if announced.isascii() and announced.isdigit() else None
    if length is None and not environ.get("wsgi.input_terminated"):
        return b"", True
    wanted = limit if length is None else min(length, limit)
    portions: list[bytes] = []
    missing = wanted
    try:
        with _time_limit(environ, seconds):
            while missing and (portion := environ["wsgi.input"].read(min(missing, 1 + limit // _MOST_PORTIONS))):
                portions.append(portion)
                missing -= len(portion)
    except Exception:  # noqa: BLE001 - servers raise errors of their own for broken chunks and lost connections
        if length is None:
            # gunicorn gives what it has of the last chunk now, and does not wait for more.
            with suppress(Exception):
                portions.append(environ["wsgi.input"].read(missing))
        return b"".join(portions), False
    return b"".join(portions), length is None or not missing


@contextmanager
def _time_limit(environ: WSGIEnvironment, seconds: float) -> Iterator[None]:
    """Limit how long the server waits for the body.

    This program's own worker lets everything together take that long, gunicorn's workers each portion.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None:
        yield
        return
    before = connection.gettimeout()
    connection.settimeout(seconds)
    try:
        yield
    finally:
        with suppress(OSError):
            connection.settimeout(before)
