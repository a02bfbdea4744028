"""Connects to whichever address of a host answers first ("happy eyeballs", RFC 8305).

urllib3 tries one address after the other, each of them for the whole time-out: behind a dead IPv6 address every request
fails (urllib3/urllib3#797, "Implement Happy Eyeballs"); once it does that itself, this file can go.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from itertools import chain, zip_longest
from typing import Any

_DELAY_SECONDS = 0.25
"""From one attempt to the next, while none has an answer: RFC 8305's Connection Attempt Delay."""
_SHORTEST_SECONDS = 0.001
_SHARES = 2
"""A short time-out leaves each address at least this part of an even share before the next one is tried."""

Address = tuple[Any, ...]
"""As ``getaddrinfo`` gives them: family, type, protocol, name, address."""


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """A socket that is connected to the host, within that time; raises TimeoutError, or the last address's OSError.

    An attempt goes on while later addresses are tried. The families alternate, so that a dead one costs little.
    """
    ends_at = time.monotonic() + seconds
    addresses = _alternating(socket.getaddrinfo(host.strip("[]"), port, socket.AF_UNSPEC, socket.SOCK_STREAM))
    delay = min(_DELAY_SECONDS, seconds / (_SHARES * len(addresses)))
    error = OSError(f"{host} has no address")
    with selectors.DefaultSelector() as attempts:
        try:
            while addresses or attempts.get_map():
                if addresses:
                    try:
                        attempts.register(_start_connecting(addresses.pop(0)), selectors.EVENT_WRITE)
                    except OSError as failed:
                        error = failed
                        continue
                left = ends_at - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, _ in attempts.select(min(delay, left) if addresses else left):
                    attempt: Any = key.fileobj
                    attempts.unregister(attempt)
                    code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        attempt.settimeout(max(_SHORTEST_SECONDS, ends_at - time.monotonic()))
                        return attempt  # type: ignore[no-any-return]
                    attempt.close()
                    error = OSError(code, os.strerror(code))
        finally:
            for key in list(attempts.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    raise error


def _alternating(addresses: list[Address]) -> list[Address]:
    """The addresses in their order, but one of each family at a time."""
    families = dict.fromkeys(family for family, *_ in addresses)
    by_family = ([address for address in addresses if address[0] == family] for family in families)
    return [address for address in chain.from_iterable(zip_longest(*by_family)) if address]


def _start_connecting(address: Address) -> socket.socket:
    """A socket that connects to the address meanwhile; raises OSError."""
    family, kind, protocol, _, where = address
    attempt = socket.socket(family, kind, protocol)
    try:
        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.setblocking(False)  # noqa: FBT003
        attempt.connect(where)
    except BlockingIOError:
        return attempt
    except OSError:
        attempt.close()
        raise
    return attempt
