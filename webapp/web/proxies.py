"""Whom a request comes from, and its id: by its peer, or as the reverse proxies say, as many as TRUSTED_PROXIES."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

from webapp.support import log_context
from webapp.support.addresses import read_ip
from webapp.support.log_context import LogContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_LONGEST_ADDRESS = 100
"""Characters of an address: the longest has 45, and a port and brackets."""


def behind_proxies(app: WSGIApplication, hops: int) -> WSGIApplication:
    """The application, with the sender's address and host as ``hops`` proxies in front of it say.

    An address that is none counts as not said: the sender is then the proxy. All log lines of a request carry its
    ``X-Request-Id``, or an id of our own: without proxies anybody could have sent the header, and it does not count.
    """
    fixed = ProxyFix(_with_addresses(app), x_for=hops, x_proto=hops, x_host=hops) if hops else app

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        log_context.current.set(LogContext(environ.get("HTTP_X_REQUEST_ID") if hops else None))
        return fixed(environ, start_response)

    return application


def _with_addresses(app: WSGIApplication) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start_response: Callable[..., object]) -> Iterable[bytes]:
        peer = environ["werkzeug.proxy_fix.orig"]["REMOTE_ADDR"]
        environ["REMOTE_ADDR"] = read_address(environ["REMOTE_ADDR"] or "") or peer
        return app(environ, start_response)  # type: ignore[arg-type]

    return application


@lru_cache(maxsize=1024)
def read_address(text: str) -> str | None:
    """An IP address in its usual form, without a port; None for anything else.

    An IPv4 address that is written as IPv6 becomes the IPv4 address that it is.
    """
    if len(text) > _LONGEST_ADDRESS:
        return None
    found = _WITH_PORT.fullmatch(text.strip())
    address = read_ip(found[1] or found[2] if found else text.strip())
    # A scope can be any text, and means nothing on another machine.
    is_scoped = isinstance(address, IPv6Address) and address.scope_id
    return str(address) if address and not is_scoped else None
