"""What a proxy hands on as the client's address is believed only if it is an address."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web.proxies import behind_proxies, read_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIEnvironment

PROXY = "192.0.2.1"


def seen(forwarded_for: str | None, hops: int = 1) -> str:
    """The sender's address as the application sees it."""
    found: list[str] = []

    def application(environ: WSGIEnvironment, _start: Callable[..., object]) -> Iterable[bytes]:
        found.append(environ["REMOTE_ADDR"])
        return []

    environ = {"REMOTE_ADDR": PROXY, "wsgi.url_scheme": "http"}
    if forwarded_for is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded_for
    behind_proxies(application, hops)(environ, lambda *_: None)  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
        ("198.51.100.9, 203.0.113.7", "203.0.113.7"),
        ("evil, 203.0.113.7:1", "203.0.113.7"),
    ],
)
def test_an_address_is_taken_without_its_port(said: str, address: str) -> None:
    assert seen(said) == address


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        " ",
        "unknown",
        "_hidden",
        "calls.example.vn",
        "203.0.113.256",
        "203.0.113.07",
        "203.0.113.7:",
        "203.0.113.7:x",
        "203.0.113.7:123456",
        "203.0.113.7 x",
        "203.0.113.7\n200 forged line",
        "2001:db8::1%eth0",
        "[2001:db8::1",
        "[2001:db8::1]4711",
        "[]",
        "3405803783",
        "<script>alert(1)</script>",
        "1" * 10_000,
        "203.0.113.7, unknown",
    ],
)
def test_where_a_proxy_says_no_address_its_own_is_taken(said: str | None) -> None:
    assert seen(said) == PROXY


def test_as_many_hops_as_are_trusted_are_believed() -> None:
    assert seen("198.51.100.9:1, 203.0.113.7:2", hops=2) == "198.51.100.9"
    assert seen("203.0.113.7", hops=2) == PROXY
    assert seen("203.0.113.7", hops=0) == PROXY


@given(st.text() | st.ip_addresses().map(str))
def test_whatever_is_said_what_is_taken_is_an_address(said: str) -> None:
    taken = read_address(said)

    assert taken is None or str(ip_address(taken)) == taken
