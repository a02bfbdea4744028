"""The headers that keep a page from being framed, stored, or made to run what others wrote."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Response

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: behind TLS the forms are checked for where they come from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def protect(response: Response, *, public: bool = False) -> None:
    """Add them; ``public``: a style sheet or script, which a browser may keep for an hour if it is found."""
    response.headers.update(_HEADERS)
    kept = public and response.status_code < HTTPStatus.BAD_REQUEST
    response.headers["Cache-Control"] = "public, max-age=3600" if kept else "no-store"
