"""Getting out to eSMS: TLS, proxies, dead addresses and kept connections, each with a real one on the other side."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from constants import API_KEY, SECRET_KEY, SPELLINGS
from peers import Peer, connect_proxy, dead_address, new_authority, peer, replying, saying, server_context
from running import free_port

from webapp.esms.client import Client
from webapp.esms.lookup import LookupAnswer, LookupRequest
from webapp.esms.network import Network, ca_bundle_problem, is_in_clear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

    from webapp.calls.report import Kind

TIMEOUT = timedelta(seconds=5)
SHORT = timedelta(seconds=0.4)
ACCEPTED = saying(CodeResponse="100")


@contextmanager
def asking(
    url: str, network: Network | None = None, *, timeout: timedelta = TIMEOUT, message_url: str | None = None
) -> Iterator[Client]:
    client = Client(url, API_KEY, SECRET_KEY, timeout, message_url=message_url, network=network or Network())
    yield client
    client.close()


def look_up(client: Client, reference_id: str = "x", kind: Kind | None = None) -> LookupAnswer:
    return client.look_up(LookupRequest(reference_id, kind=kind))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return new_authority()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """A file with the CA's certificate."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


# TLS


def test_a_server_whose_ca_is_in_the_bundle_is_trusted(authority: trustme.CA, bundle: Path) -> None:
    with peer(ACCEPTED, server_context(authority, "127.0.0.1")) as served:
        with asking(served.url, Network(ca_bundle=bundle)) as client:
            assert [look_up(client).code for _ in range(3)] == ["100"] * 3
        assert served.connections == 1


def test_a_server_whose_ca_is_not_known_fails_as_tls_with_the_remedy(authority: trustme.CA) -> None:
    with peer(ACCEPTED, server_context(authority, "127.0.0.1")) as served, asking(served.url) as client:
        answer = look_up(client)
        assert (answer.code, answer.answered, answer.kind) == ("tls", False, "failed")
        assert answer.problem is not None
        assert answer.problem.startswith("The TLS connection to 127.0.0.1 failed: ")
        assert "certificate" in answer.problem
        assert "ESMS_CA_BUNDLE" in answer.problem
        assert served.requests == []


@pytest.mark.parametrize(
    ("identity", "validity", "words"),
    [
        ("another.example.vn", {}, "check ESMS_API_URL: its host must be a name in the server's certificate"),
        ("127.0.0.1", {"not_after": datetime(2020, 1, 1, tzinfo=UTC)}, "check this machine's clock"),
        ("127.0.0.1", {"not_before": datetime(2090, 1, 1, tzinfo=UTC)}, "check this machine's clock"),
    ],
)
def test_a_certificate_of_another_name_or_time_has_its_own_words(
    authority: trustme.CA, bundle: Path, identity: str, validity: dict[str, datetime], words: str
) -> None:
    usual = {"not_before": datetime(2000, 1, 1, tzinfo=UTC), "not_after": datetime(2099, 1, 1, tzinfo=UTC)}
    context = server_context(authority, identity, **(usual | validity))
    with peer(ACCEPTED, context) as served, asking(served.url, Network(ca_bundle=bundle)) as client:
        answer = look_up(client)
        assert answer.code == "tls"
        assert words in (answer.problem or "")


def test_a_server_that_speaks_no_tls_fails_as_tls() -> None:
    def talk(_: Peer, line: socket.socket) -> None:
        line.recv(1)
        line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with peer(talk) as served, asking(served.url.replace("http:", "https:")) as client:
        answer = look_up(client)
        assert (answer.code, answer.answered) == ("tls", False)
        assert "speaks no TLS at this port" in (answer.problem or "")


def test_a_handshake_that_is_cut_fails_as_tls() -> None:
    def talk(_: Peer, line: socket.socket) -> None:
        line.recv(10_000)

    with peer(talk) as served, asking(served.url.replace("http:", "https:")) as client:
        answer = look_up(client)
        assert answer.code == "tls"
        assert "handshake" in (answer.problem or "")


def test_an_answer_over_tls_that_breaks_is_unreachable(authority: trustme.CA, bundle: Path) -> None:
    """The handshake was fine, so nobody is to look at certificates."""

    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")

    context = server_context(authority, "127.0.0.1")
    with peer(talk, context) as served, asking(served.url, Network(ca_bundle=bundle)) as client:
        answer = look_up(client)
        assert answer.code == "unreachable"
        assert answer.problem == (
            "The connection to 127.0.0.1 ended before a whole answer came: check the network and ESMS_API_URL."
        )


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file or directory"), (b"", "holds no certificate"), (b"no PEM at all", "holds no certificate")],
)
def test_a_bundle_that_cannot_be_used_is_known_before_anything_is_asked(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "bundle.pem"
    if content is not None:
        file.write_bytes(content)
    assert ca_bundle_problem(file) == problem


def test_a_bundle_may_be_a_folder(tmp_path: Path, bundle: Path) -> None:
    assert ca_bundle_problem(tmp_path) is None
    assert ca_bundle_problem(bundle) is None


# Proxies


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Peer]:
    """Who answers over https."""
    with peer(ACCEPTED, server_context(authority, "127.0.0.1", "localhost")) as served:
        yield served


def test_https_goes_through_the_proxy_which_sees_no_key(secure: Peer, bundle: Path) -> None:
    with connect_proxy() as proxy:
        with asking(secure.url, Network(proxy.url, ca_bundle=bundle)) as client:
            assert [look_up(client).code for _ in range(3)] == ["100"] * 3
        (head,) = proxy.requests
        assert head.startswith(f"CONNECT 127.0.0.1:{secure.port} HTTP/1.")
        seen = head + proxy.passed.decode("latin-1")
        assert len(proxy.passed) > 1000
        assert [spelling for spelling in (*SPELLINGS, "ApiKey", "GetSendStatus") if spelling in seen] == []
    assert len(secure.requests) == 3


def test_the_proxys_own_password_is_sent_to_it_alone(secure: Peer, bundle: Path) -> None:
    with connect_proxy() as proxy:
        url = proxy.url.replace("http://", "http://someone:a%40b@")
        with asking(secure.url, Network(url, ca_bundle=bundle)) as client:
            assert look_up(client).code == "100"
        assert "Proxy-Authorization: Basic c29tZW9uZTphQGI=" in proxy.requests[0]  # someone:a@b
    assert "Basic" not in secure.requests[0]


def test_hosts_of_no_proxy_are_reached_without_it(secure: Peer, bundle: Path) -> None:
    with connect_proxy() as proxy:
        for hosts in ("127.0.0.1", "example.vn, 127.0.0.1", "*", "127.0.0.0/8"):
            with asking(secure.url, Network(proxy.url, hosts, bundle)) as client:
                assert look_up(client).code == "100"
        assert proxy.requests == []


def test_http_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would see the keys, which are in the URL; whatever the environment says."""
    with connect_proxy() as proxy, peer(ACCEPTED) as served:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with asking(served.url, Network(proxy.url)) as client:
            assert look_up(client).code == "100"
        assert proxy.requests == []


@pytest.mark.parametrize("refusal", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_a_proxy_that_refuses_is_named_with_its_words(secure: Peer, bundle: Path, refusal: str) -> None:
    with connect_proxy(refusal) as proxy, asking(secure.url, Network(proxy.url, ca_bundle=bundle)) as client:
        answer = look_up(client)
        assert (answer.code, answer.answered) == ("unreachable", False)
        assert answer.problem == (
            f"The proxy 127.0.0.1 does not connect to 127.0.0.1 ({refusal}): check the network and HTTPS_PROXY."
        )
    assert secure.requests == []


def test_a_proxy_that_is_not_there_is_named(secure: Peer, bundle: Path) -> None:
    with asking(secure.url, Network(f"http://127.0.0.1:{free_port()}", ca_bundle=bundle)) as client:
        answer = look_up(client)
        assert answer.code == "unreachable"
        assert "no connection to the proxy 127.0.0.1 (Connection refused)" in (answer.problem or "")


def test_a_proxy_that_does_not_answer_ends_in_time(secure: Peer, bundle: Path) -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        line.recv(1)

    with peer(talk) as proxy, asking(secure.url, Network(proxy.url, ca_bundle=bundle), timeout=SHORT) as client:
        began = time.monotonic()
        answer = look_up(client)
        assert time.monotonic() - began < 5
        assert (answer.code, answer.answered) == ("timeout", False)


# Addresses


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the name esms.test have these addresses, in this order."""
    found = socket.getaddrinfo

    def resolve(*addresses: tuple[str, int]) -> None:
        def getaddrinfo(host: str, port: int, *given: Any, **more: Any) -> Any:
            if host != "esms.test":
                return found(host, port, *given, **more)
            return [found(*address, type=socket.SOCK_STREAM)[0] for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


def test_a_dead_ipv6_address_costs_a_moment_and_no_look_up(resolving: Callable[..., None]) -> None:
    with peer(ACCEPTED) as served, dead_address() as dead:
        resolving(dead, ("127.0.0.1", served.port))
        with asking("http://esms.test", timeout=timedelta(seconds=20)) as client:
            began = time.monotonic()
            assert look_up(client).code == "100"
            assert time.monotonic() - began < 3


def test_several_dead_addresses_leave_time_for_one_that_answers(resolving: Callable[..., None]) -> None:
    """Also in a short time-out, of which each takes a share only."""
    with peer(ACCEPTED) as served, dead_address() as dead, dead_address(socket.AF_INET) as old:
        resolving(dead, dead, old, old, ("127.0.0.1", served.port))
        with asking("http://esms.test", timeout=timedelta(seconds=1.5)) as client:
            assert look_up(client).code == "100"


def test_a_refusing_address_is_passed_over_at_once(resolving: Callable[..., None]) -> None:
    with peer(ACCEPTED) as served:
        resolving(("::1", free_port()), ("127.0.0.1", served.port))
        with asking("http://esms.test") as client:
            began = time.monotonic()
            assert look_up(client).code == "100"
            assert time.monotonic() - began < 0.25


def test_where_no_address_answers_the_look_up_times_out_in_time(resolving: Callable[..., None]) -> None:
    with dead_address() as dead, dead_address(socket.AF_INET) as old:
        resolving(dead, old)
        with asking("http://esms.test", timeout=SHORT) as client:
            began = time.monotonic()
            answer = look_up(client)
            assert time.monotonic() - began < 5
            assert (answer.code, answer.answered) == ("timeout", False)
            assert "no connection to esms.test within ESMS_TIMEOUT" in (answer.problem or "")


# Kept connections


def ending(after: bytes = b"", *, pause: float = 0.0) -> Callable[[Peer, socket.socket], None]:
    """One answer, then the connection ends at the next request, after these bytes of an answer."""

    def talk(served: Peer, line: socket.socket) -> None:
        if served.read(line):
            line.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"CodeResponse": "100"}')
        if served.read(line):
            time.sleep(pause)
            line.sendall(after)

    return talk


def test_a_kept_connection_that_ends_is_tried_once_more_on_a_new_one() -> None:
    with peer(ending()) as served, asking(served.url) as client:
        assert [look_up(client, f"call-{number}").code for number in range(4)] == ["100"] * 4
        assert served.connections == 4
        assert len(served.requests) == 7


def test_the_same_over_tls_and_through_a_proxy(authority: trustme.CA, bundle: Path) -> None:
    with peer(ending(), server_context(authority, "127.0.0.1")) as served, connect_proxy() as proxy:
        with asking(served.url, Network(proxy.url, ca_bundle=bundle)) as client:
            assert [look_up(client).code for _ in range(3)] == ["100"] * 3
        assert served.connections == len(proxy.requests) == 3


def test_a_kept_connection_that_is_reset_is_tried_once_more() -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        if served.read(line):
            line.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"CodeResponse": "100"}')
        if line.recv(1):  # what is left unread makes it a reset
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with peer(talk) as served, asking(served.url) as client:
        assert [look_up(client).code for _ in range(3)] == ["100"] * 3
        assert served.connections == 3


def test_once_a_byte_of_an_answer_came_it_is_not_tried_again() -> None:
    with peer(ending(b"HTTP/")) as served, asking(served.url) as client:
        assert [look_up(client).code for _ in range(2)] == ["100", "unreachable"]
        assert (served.connections, len(served.requests)) == (1, 2)


def test_a_new_connection_that_ends_is_not_tried_again() -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)

    with peer(talk) as served, asking(served.url) as client:
        assert [look_up(client).code for _ in range(2)] == ["unreachable"] * 2
        assert len(served.requests) == 2


def test_a_kept_connection_that_is_silent_is_a_timeout_and_not_tried_again() -> None:
    with peer(ending(pause=0.6)) as served, asking(served.url, timeout=SHORT) as client:
        assert look_up(client).code == "100"
        answer = look_up(client)
        assert (answer.code, answer.problem) == ("timeout", "No whole answer came within ESMS_TIMEOUT.")
        assert (served.connections, len(served.requests)) == (1, 2)


# The message API


def answering(**fields: object) -> Callable[[Peer, socket.socket], None]:
    return saying(CodeResponse="100", SMSID="X", **fields)


UNKNOWN = saying(CodeResult="105", ErrorMessage="Check the SMSID or try later")
OTP = answering(SendStatus=5, SendSuccess=1, SendFailed=0, TotalPrice=470.0, TotalReceiver=1, TotalSent=1)
VOICE = saying(CodeResponse="100", SendStatus=5, CallStatus="ANSWERED", CallDuration=3, SentResult=1, Ivr="")


def silent(served: Peer, line: socket.socket) -> None:
    served.read(line)
    line.recv(1)


def ends(served: Peer, line: socket.socket) -> None:
    served.read(line)


@pytest.mark.parametrize(
    ("kind", "voice", "message", "code", "final", "asked"),
    [
        ("otp", VOICE, OTP, "100", True, (0, 1)),
        ("otp", VOICE, UNKNOWN, "105", False, (0, 1)),
        ("voice", UNKNOWN, OTP, "105", False, (1, 0)),
        ("voice", VOICE, OTP, "100", True, (1, 0)),
        (None, VOICE, OTP, "100", True, (1, 0)),
        (None, UNKNOWN, OTP, "100", True, (1, 1)),
        (None, saying(CodeResult="104"), OTP, "100", True, (1, 1)),
        (None, UNKNOWN, answering(SendStatus=7), "100", False, (1, 1)),
        (None, UNKNOWN, saying(CodeResponse="99"), "99", False, (1, 1)),
        (None, UNKNOWN, saying(CodeResponse="104", SMSID="x"), "105", False, (1, 1)),
        (None, UNKNOWN, saying(CodeResponse="101", SMSID="x"), "101", False, (1, 1)),
        (None, UNKNOWN, saying(CodeResponse="160"), "160", False, (1, 1)),
        (None, UNKNOWN, saying(CodeResponse="999"), "999", False, (1, 1)),
        (None, UNKNOWN, replying("HTTP/1.1 503 Busy"), "105", False, (1, 1)),
        (None, UNKNOWN, replying("HTTP/1.1 429 Slow"), "http-429", False, (1, 1)),
        (None, UNKNOWN, ends, "105", False, (1, 1)),
        (None, UNKNOWN, silent, "105", False, (1, 1)),
        (None, saying(CodeResult="101"), OTP, "101", False, (1, 0)),
        (None, ends, OTP, "unreachable", False, (1, 0)),
        (None, replying("HTTP/1.1 500 Oh"), OTP, "http-500", False, (1, 0)),
    ],
)
def test_which_api_is_asked_and_whose_word_counts(
    kind: Kind | None,
    voice: Callable[[Peer, socket.socket], None],
    message: Callable[[Peer, socket.socket], None],
    code: str,
    final: bool,  # noqa: FBT001
    asked: tuple[int, int],
) -> None:
    timeout = timedelta(seconds=0.6 if message is silent else 5)
    with peer(voice) as one, peer(message) as other, asking(one.url, timeout=timeout, message_url=other.url) as client:
        began = time.monotonic()
        answer = look_up(client, kind=kind)
        assert time.monotonic() - began < timeout.total_seconds() + 2
        assert (answer.code, answer.kind == "final", answer.answered) == (
            code,
            final,
            code != "unreachable" and not code.startswith("http-5"),
        )
        assert (len(one.requests), len(other.requests)) == asked


def test_a_503_of_the_message_api_slows_look_ups_down_and_the_call_is_not_found() -> None:
    busy = replying("HTTP/1.1 503 Busy", "Retry-After: 7")
    with peer(UNKNOWN) as one, peer(busy) as other, asking(one.url, message_url=other.url) as client:
        answer = look_up(client, kind=None)

    assert (answer.kind, answer.code, answer.slows_down, answer.retry_after_seconds) == ("not_found", "105", True, 7)
    assert not answer.rate_limited  # so it is not asked about again at once


def test_the_account_that_the_message_api_refuses_is_refused() -> None:
    """And no call is "not found" for it."""
    with peer(UNKNOWN) as one, peer(saying(CodeResponse="101", SMSID="x")) as other:
        for kind in (None, "otp"):
            with asking(one.url, message_url=other.url) as client:
                answer = look_up(client, kind=kind)
                assert (answer.refused, answer.kind) == (True, "failed")


def test_a_voice_otp_is_asked_about_by_ref_id_and_says_its_price() -> None:
    with peer(OTP) as served, asking("http://127.0.0.1:1", message_url=served.url) as client:
        report = look_up(client, kind="otp").report
        assert report is not None
        assert (report.final, report.kind, report.sent_result, report.send_status) == (True, "otp", 1, 5)
        assert str(report.price) == "470.0000"
        (request,) = served.requests
        assert "RefId=x&" in request.replace(" HTTP", "& HTTP")
        assert "ReferenceId" not in request


def test_without_a_message_api_every_call_is_asked_about_at_the_voice_api() -> None:
    with peer(UNKNOWN) as served, asking(served.url) as client:
        assert [look_up(client, kind=kind).kind for kind in ("otp", "voice", None)] == ["not_found"] * 3
        assert ["ReferenceId=x" in request for request in served.requests] == [True] * 3


def test_esms_is_asked_with_its_own_spelling_of_the_id() -> None:
    with peer(saying(CodeResponse="100", ReferenceId="AB-1")) as served, asking(served.url) as client:
        assert client.look_up(LookupRequest("ab-1", "Ab-1")).code == "100"
        assert client.look_up(LookupRequest("ab-1")).code == "100"
        assert ["ReferenceId=Ab-1" in request for request in served.requests] == [True, False]


# Clocks and clear text


@pytest.mark.parametrize("seconds", [-3600, -90, 0, 90, 3600])
def test_a_clock_that_differs_from_esms_is_measured(seconds: int) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=seconds), usegmt=True)
    with peer(replying("HTTP/1.1 503 Busy", f"Date: {date}")) as served, asking(served.url) as client:
        ahead = look_up(client).clock_ahead
        assert ahead is not None
        assert abs(ahead.total_seconds() - seconds) < 5


@pytest.mark.parametrize("date", ["today", "Mon, 23 Nov 2020 10:00:00 -0000", "Mon, 99 Nov 2020 10:00:00 GMT"])
def test_a_date_that_is_none_measures_nothing(date: str) -> None:
    with peer(replying("HTTP/1.1 503 Busy", f"Date: {date}")) as served, asking(served.url) as client:
        assert look_up(client).clock_ahead is None


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("http://esms.example.vn/json", True),
        ("http://10.0.0.7:8808/json", True),
        ("http://localhost.example.vn", True),
        ("https://esms.example.vn/json", False),
        ("http://localhost:8808/json", False),
        ("http://127.0.0.1:8808/json", False),
        ("http://127.8.0.1", False),
        ("http://[::1]:8808/json", False),
    ],
)
def test_which_addresses_have_the_keys_go_in_clear(url: str, in_clear: bool) -> None:  # noqa: FBT001
    assert is_in_clear(url) == in_clear


def test_no_failure_shows_a_key(secure: Peer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for url, network in ((secure.url, Network()), (secure.url, Network(f"http://127.0.0.1:{free_port()}"))):
        with asking(url, network) as client:
            answer = look_up(client)
            shown = f"{answer!r} {caplog.text}"
            assert [spelling for spelling in SPELLINGS if spelling in shown] == []
