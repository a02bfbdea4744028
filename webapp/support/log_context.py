"""What every log line of one request has in common: the request's id, and the ReferenceId of its call."""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
"""Without quotes, brackets, commas and percent signs: nothing that means something to a shell, a page or a search."""


class LogContext:
    """One request. Only lines that are written as JSON need an id of our own, so it is made when it is first read."""

    __slots__ = ("_made", "given_id", "reference_id")

    def __init__(self, given_id: str | None = None) -> None:
        """``given_id`` is the proxy's; one that is not well-formed does not count."""
        self.given_id = given_id if given_id and _REQUEST_ID.fullmatch(given_id) else None
        self.reference_id: str | None = None
        self._made: str | None = None

    @property
    def request_id(self) -> str:
        """The proxy's, else 16 random hexadecimal digits."""
        if self.given_id:
            return self.given_id
        if self._made is None:
            self._made = secrets.token_hex(8)
        return self._made


current: ContextVar[LogContext | None] = ContextVar("log_context", default=None)
"""The request that this greenlet (or thread) answers now, if any: all its lines belong to it."""


@contextmanager
def on_behalf_of(context: LogContext | None) -> Iterator[None]:
    """Within, lines belong to the request of ``context``, which another greenlet answers."""
    before = current.set(context)
    try:
        yield
    finally:
        current.reset(before)
