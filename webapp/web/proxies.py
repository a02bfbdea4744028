"""Believes the ``X-Forwarded-…`` headers of as many reverse proxies as TRUSTED_PROXIES says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def behind_proxies(app: WSGIApplication, hops: int) -> WSGIApplication:
    """The application, with the sender's address and host as ``hops`` proxies in front of it say."""
    return ProxyFix(app, x_for=hops, x_proto=hops, x_host=hops) if hops else app
