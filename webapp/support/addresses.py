"""Reads addresses: of clients, and in settings and options (where to listen, whom to take callbacks from)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Network = IPv4Network | IPv6Network
_HIGHEST_PORT = 65535


def split_bind(bind: str) -> tuple[str, int]:
    """Host, without brackets, and port of ``HOST:PORT``; raises ValueError. No host stands for all addresses."""
    host, colon, port = bind.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= _HIGHEST_PORT
    is_host = host.isascii() and (":" not in host or (host.startswith("[") and host.endswith("]")))
    if not (colon and is_port and is_host):
        raise ValueError(f"{bind!r} is not HOST:PORT, such as 0.0.0.0:8000")
    return host.strip("[]"), int(port)


def read_networks(text: str) -> tuple[Network, ...]:
    """Networks or single addresses, with commas; raises ValueError that names the one that is wrong."""
    return tuple(_read_network(one.strip()) for one in text.split(",") if one.strip())


def _read_network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"{text}: write the network as {ip_network(text, strict=False)}") from None
        words = f"{text[:100]!r} is no address such as 203.0.113.7 and no network such as 203.0.113.0/24"
        raise ValueError(words) from None


def is_in(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of the networks, also an IPv4 address in IPv6's form; False for what is none."""
    found = read_ip(address or "")
    return found is not None and any(found in network for network in networks)


def read_ip(text: str) -> IPv4Address | IPv6Address | None:
    """An IP address, None for anything else. An IPv4 address in IPv6's form becomes the IPv4 address that it is."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and not found.scope_id:
        return found.ipv4_mapped or found
    return found
