"""Slows down those who try tokens: each address waits longer after each wrong one."""

from __future__ import annotations

import time
from collections import OrderedDict
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from webapp.support.addresses import read_ip

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WAIT_SECONDS = 60.0
_FREE_FAILURES = 3
_FORGOTTEN_SECONDS = 3600.0
_MOST_ADDRESSES = 10_000


class _Failures(NamedTuple):
    number: int
    last: float


class Throttle:
    """Failures by address, of this process. After 3 failures the waits are 1, 2, 4 … 60 seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know of no failure yet."""
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_seconds(self, address: str | None) -> float:
        """How long this address has to wait until its next try is looked at."""
        found = self._failures.get(_network_of_visitor(address))
        if found is None or found.number < _FREE_FAILURES:
            return 0.0
        wait = min(2.0 ** min(found.number - _FREE_FAILURES, 10), LONGEST_WAIT_SECONDS)
        return max(0.0, found.last + wait - self._clock())

    def failed(self, address: str | None) -> None:
        """Count a wrong token."""
        now, network = self._clock(), _network_of_visitor(address)
        before = self._failures.pop(network, None)
        number = before.number if before and now - before.last < _FORGOTTEN_SECONDS else 0
        self._failures[network] = _Failures(number + 1, now)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str | None) -> None:
        """Forget the failures of an address."""
        self._failures.pop(_network_of_visitor(address), None)


def _network_of_visitor(address: str | None) -> str:
    """The address; of IPv6 the network of 64 bits, all of which one person has."""
    # A server at [::] sees IPv4 addresses in IPv6's form: all of them in one network of 64 bits.
    found = read_ip(address or "")
    if found is None:
        return address or ""
    return str(IPv6Network((found, 64), strict=False)) if isinstance(found, IPv6Address) else str(found)
