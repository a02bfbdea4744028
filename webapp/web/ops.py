"""Answers /metrics and /readyz at the address of OPS_BIND alone, and nothing but what monitoring asks for there."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from flask import abort, request

from webapp.support.addresses import split_bind

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from flask import Flask

_FOR_OPERATORS = {"/metrics", "/readyz"}
_ALIVE = "/healthz"


class OpsAddress:
    """The address that OPS_BIND names."""

    def __init__(self, bind: str) -> None:
        """``bind`` is HOST:PORT; raises OSError where the host is not known."""
        host, self._port = split_bind(bind)
        found = socket.getaddrinfo(host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self._hosts = {str(address[0]) for *_, address in found}
        self._is_any = any(ip_address(one).is_unspecified for one in self._hosts)

    def is_at(self, address: Any) -> bool:
        """Whether a connection whose own end has this address came to it."""
        if not isinstance(address, tuple) or int(address[1]) != self._port:
            return False
        return self._is_any or address[0] in self._hosts


def init_app(app: Flask, address: OpsAddress) -> None:
    """Answer 404 to requests that come to the wrong address, as if the route were not there."""

    @app.before_request
    def refuse_at_the_wrong_address() -> None:
        if address.is_at(_own_end(request.environ)):
            if request.path not in {*_FOR_OPERATORS, _ALIVE}:
                abort(404)
        elif request.path in _FOR_OPERATORS:
            abort(404)


def _own_end(environ: WSGIEnvironment) -> Any:
    """The address of this server that the connection came to; no header of the request can change it."""
    if connection := environ.get("gunicorn.socket"):
        return connection.getsockname()
    original = environ.get("werkzeug.proxy_fix.orig", environ)
    return original["SERVER_NAME"], original["SERVER_PORT"]
