"""Finds routes by method and path alone: no header makes a callback unreadable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.exceptions import BadHost

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.routing import MapAdapter


class RoutedByPath(Flask):
    """Flask, but without a 400 for a Host that is no domain name, or for an offer of WebSockets."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """The routes for this request."""
        if request is None:
            return super().create_url_adapter(None)
        request.environ.pop("HTTP_UPGRADE", None)
        try:
            return super().create_url_adapter(request)
        except BadHost:
            # Then the server's own address counts.
            del request.environ["HTTP_HOST"]
            return super().create_url_adapter(request)
