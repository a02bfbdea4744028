"""Whom a request comes from: its peer, or what as many reverse proxies as TRUSTED_PROXIES says tell of it."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIApplication, WSGIEnvironment

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_LONGEST = 100
"""Characters of an address: the longest has 45, and a port and brackets."""


def behind_proxies(app: WSGIApplication, hops: int) -> WSGIApplication:
    """The application, with the sender's address and host as ``hops`` proxies in front of it say.

    An address that is none counts as not said: the sender is then the proxy.
    """
    return ProxyFix(_with_addresses(app), x_for=hops, x_proto=hops, x_host=hops) if hops else app


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
    if len(text) > _LONGEST:
        return None
    found = _WITH_PORT.fullmatch(text.strip())
    try:
        address = ip_address(found[1] or found[2] if found else text.strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id:
            return None  # A scope can be any text, and means nothing on another machine.
        address = address.ipv4_mapped or address
    return str(address)
