"""The headers that every answer has: nothing guesses its type, and nothing on the way keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask, Response

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
LINES = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
"""The same as they are sent, for answers that Flask does not make."""


def init_app(app: Flask) -> None:
    """Add them to every answer that has no others of the same names."""

    @app.after_request
    def add(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response
