"""Asking eSMS: whatever it or the network does is one answer, within the time, and shows no key."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import pytest
from constants import API_KEY, SECRET_KEY, SPELLINGS
from peers import ANSWERS, Peer, peer, replying
from running import free_port

from webapp.esms.client import ANSWER_LIMIT, Client
from webapp.esms.lookup import LookupRequest
from webapp.esms.sandbox.faults import FAULTS
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from webapp.calls.report import Kind
    from webapp.esms.lookup import LookupAnswer

TIMEOUT = timedelta(seconds=0.4)
SHORT = timedelta(seconds=0.15)
"""Where no look-up gets an answer."""
SOON = 5.0
"""Seconds in which a look-up that times out is over, also on a slow machine."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(seed=3, api_key=API_KEY, secret_key=SECRET_KEY)) as sandbox:
        sandbox.place(40)
        yield sandbox


@contextmanager
def asking(
    url: str, *, timeout: timedelta = TIMEOUT, keys: tuple[str, str] = (API_KEY, SECRET_KEY)
) -> Iterator[Client]:
    client = Client(url, *keys, timeout)
    yield client
    client.close()


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    with asking(sandbox.api_url) as client:
        yield client


def look_up(client: Client, reference_id: str, esms_id: str | None = None, kind: Kind | None = None) -> LookupAnswer:
    return client.look_up(LookupRequest(reference_id, esms_id, kind))


def dripping(opening: str) -> Callable[[Peer, socket.socket], None]:
    """An answer that begins so, and of which a byte comes now and then for twenty seconds."""

    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        line.sendall(opening.encode())
        for _ in range(200):
            time.sleep(0.1)
            line.sendall(b" ")

    return talk


def shown_keys(*texts: object) -> list[str]:
    """The spellings of the keys that a person could read there."""
    return [spelling for spelling in SPELLINGS for text in texts if spelling in str(text) or spelling in repr(text)]


# What eSMS may do


def test_every_fault_of_the_sandbox_is_looked_at_here() -> None:
    assert ANSWERS.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", ANSWERS)
def test_a_fault_is_an_answer(fault: str, sandbox: Sandbox, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Also in time, and neither the answer nor any log line shows a key."""
    caplog.set_level(logging.DEBUG)
    (reference_id,) = list(sandbox.calls)[:1]
    sandbox.faults[reference_id] = fault
    began = time.monotonic()
    answer = look_up(client, reference_id)
    assert time.monotonic() - began < SOON
    assert (answer.code, answer.answered, answer.kind) == ANSWERS[fault]
    assert answer.reference_id == reference_id
    assert (answer.retry_after_seconds is not None) == fault.startswith("later")
    assert 0 <= (answer.retry_after_seconds or 0) <= 2
    assert (answer.report is not None) == (answer.code in {"100", "99"})
    assert shown_keys(answer, client, caplog.text) == []


def test_an_honest_answer_becomes_a_final_report(sandbox: Sandbox, client: Client) -> None:
    call = next(call for call in sandbox.calls.values() if call.ivr and call.number)
    report = look_up(client, call.reference_id.lower()).report
    assert report is not None
    assert report.final
    assert report.source == "lookup"
    assert report.reference_id == call.reference_id.lower()
    assert (report.call_status, report.call_duration, report.ivr) == (call.lookup_status, call.call_duration, call.ivr)
    assert (report.send_status, report.sent_result) == (call.send_status, call.sent_result)


def test_a_call_that_esms_does_not_know_is_not_found(client: Client) -> None:
    assert look_up(client, "never-placed").kind == "not_found"


def test_wrong_keys_are_code_101(sandbox: Sandbox) -> None:
    with asking(sandbox.api_url, keys=(API_KEY, "not the key")) as client:
        assert look_up(client, "any").code == "101"


def test_an_identity_of_odd_letters_arrives_as_it_is() -> None:
    odd = "a&b=c#d%20+e?f/\"'<>"
    with peer(replying("HTTP/1.1 200 OK", body='{"CodeResponse": "100"}')) as served, asking(served.url) as client:
        assert look_up(client, odd).code == "100"
        (request,) = served.requests
        assert parse_qs(urlsplit(request.split()[1]).query) == {
            "ApiKey": [API_KEY],
            "SecretKey": [SECRET_KEY],
            "ReferenceId": [odd],
        }
        assert urlsplit(request.split()[1]).path == "/GetSendStatus"


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "304 Not Modified", "307 Temporary Redirect"])
@pytest.mark.parametrize("location", ["Location: /another", "X-Nowhere: to be seen"])
def test_a_redirect_is_never_followed_nor_read(status: str, location: str) -> None:
    """Not even one that says nowhere where to, or whose body would be a fine answer."""
    body = "" if status.startswith("304") else '{"CodeResponse": "100", "CallStatus": "ANSWERED"}'
    with peer(replying(f"HTTP/1.1 {status}", location, body=body)) as served, asking(served.url) as client:
        answer = look_up(client, "x")
        assert (answer.code, answer.answered) == (f"http-{status[:3]}", True)
        assert len(served.requests) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "502 Bad Gateway"])
def test_an_http_error_is_one_whatever_its_body_says(status: str) -> None:
    body = '{"CodeResponse": "100", "CallStatus": "ANSWERED"}'
    with peer(replying(f"HTTP/1.1 {status}", body=body)) as served, asking(served.url) as client:
        assert look_up(client, "x").code == f"http-{status[:3]}"


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "{}", '"100"', '{"CodeResponse": ""}', '{"CodeResponse": {}}', "[" * 100_000, "\0"]
)
def test_an_answer_that_says_no_code_is_unreadable(body: str) -> None:
    with peer(replying("HTTP/1.1 200 OK", body=body)) as served, asking(served.url, timeout=5 * TIMEOUT) as client:
        answer = look_up(client, "x")
        assert (answer.code, answer.answered) == ("unreadable", True)


@pytest.mark.parametrize(("padding", "code"), [(-1, "100"), (0, "100"), (1, "unreadable")])
def test_an_answer_is_read_up_to_its_limit(padding: int, code: str) -> None:
    body = '{"CodeResponse": "100"}'
    body += " " * (ANSWER_LIMIT - len(body) + padding)
    with peer(replying("HTTP/1.1 200 OK", body=body)) as served, asking(served.url, timeout=5 * TIMEOUT) as client:
        assert look_up(client, "x").code == code


# What the network may do


@pytest.mark.parametrize(
    "opening",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Slow:",
        "HTTP/1.1 ",
        "HTTP/1.1 500 Internal Server Error\r\nX-Slow:",
        "",
    ],
)
def test_a_look_up_as_a_whole_ends_in_time_however_slowly_the_answer_drips(opening: str) -> None:
    with peer(dripping(opening)) as served, asking(served.url, timeout=SHORT) as client:
        began = time.monotonic()
        answer = look_up(client, "x")
        assert time.monotonic() - began < SOON
        assert (answer.code, answer.answered) == ("timeout", False)


def test_a_kept_connection_is_cut_in_time_as_well() -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        body = '{"CodeResponse": "100"}'
        line.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        dripping("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")(served, line)

    with peer(talk) as served, asking(served.url) as client:
        assert look_up(client, "x").code == "100"
        began = time.monotonic()
        assert look_up(client, "x").code == "timeout"
        assert time.monotonic() - began < SOON
        assert served.connections == 1


def test_a_handshake_that_drips_ends_in_time() -> None:
    def talk(_: Peer, line: socket.socket) -> None:
        for byte in bytes.fromhex("160303 4000 020000fc0303") + bytes(100):
            line.sendall(bytes([byte]))
            time.sleep(0.1)

    with peer(talk) as served, asking(served.url.replace("http:", "https:")) as client:
        began = time.monotonic()
        assert look_up(client, "x").code == "timeout"
        assert time.monotonic() - began < SOON


def test_a_connection_that_comes_too_late_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was slow before there was a connection to cut, such as a name server, counts as well."""
    found = socket.getaddrinfo

    def slowly_found(*given: Any) -> Any:
        time.sleep(SHORT.total_seconds() + 0.1)
        return found(*given)

    monkeypatch.setattr(socket, "getaddrinfo", slowly_found)
    with peer(dripping("HTTP/1.1 200 OK\r\n\r\n")) as served, asking(served.url, timeout=SHORT) as client:
        began = time.monotonic()
        assert look_up(client, "x").code == "timeout"
        assert time.monotonic() - began < SOON


def test_a_port_without_a_server_is_unreachable() -> None:
    with asking(f"http://127.0.0.1:{free_port()}") as client:
        answer = look_up(client, "x")
        assert (answer.code, answer.answered, answer.kind) == ("unreachable", False, "failed")


def test_an_unknown_name_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with asking("http://voiceapi.example.vn") as client:
        assert look_up(client, "x").code == "unreachable"


@pytest.mark.parametrize("url", ["http://a..b/", f"http://{'x' * 70}.vn", "http://[::1", "http://127.0.0.1:99999"])
def test_an_address_that_cannot_be_is_unreachable(url: str) -> None:
    with asking(url) as client:
        assert look_up(client, "x").code == "unreachable"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        "HTTP/1.1 200 OK\r\n" + "X-Many: headers\r\n" * 200 + "\r\n",
    ],
)
def test_a_connection_that_breaks_or_speaks_no_http_is_unreachable(sent: str) -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        line.sendall(sent.encode())

    with peer(talk) as served, asking(served.url) as client:
        assert (look_up(client, "x").code, look_up(client, "x").answered) == ("unreachable", False)


def test_an_answer_that_grows_when_it_is_unpacked_is_read_up_to_its_limit() -> None:
    """A compressed megabyte can hold a gigabyte; as much memory as the limit, and some, is used."""
    packed = gzip.compress(b'{"CodeResponse": "100"' + b" " * (50 << 20) + b"}", 1)
    assert len(packed) < ANSWER_LIMIT

    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + packed)

    with peer(talk) as served, asking(served.url, timeout=5 * TIMEOUT) as client:
        tracemalloc.start()
        try:
            assert look_up(client, "x").code == "unreadable"
            assert tracemalloc.get_traced_memory()[1] < 20 * ANSWER_LIMIT
        finally:
            tracemalloc.stop()


def test_an_answer_whose_encoding_is_not_what_it_says_is_unreadable() -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone")

    with peer(talk) as served, asking(served.url) as client:
        assert (look_up(client, "x").code, look_up(client, "x").answered) == ("unreadable", True)


# Connections


def test_a_connection_is_kept_over_many_look_ups() -> None:
    with peer(replying("HTTP/1.1 200 OK", body='{"CodeResponse": "100"}')) as served, asking(served.url) as client:
        assert [look_up(client, f"call-{number}").code for number in range(20)] == ["100"] * 20
        assert (served.connections, len(served.requests)) == (1, 20)


def test_threads_do_not_share_a_connection() -> None:
    together = threading.Barrier(4, timeout=5)

    def talk(served: Peer, line: socket.socket) -> None:
        body = '{"CodeResponse": "100"}'
        while served.read(line):
            together.wait()
            line.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    with (
        peer(talk) as served,
        asking(served.url, timeout=timedelta(seconds=5)) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        answers = list(threads.map(partial(look_up, client), [f"call-{number}" for number in range(40)]))
        assert [(answer.reference_id, answer.code) for answer in answers] == [(f"call-{n}", "100") for n in range(40)]
        assert (served.connections, len(served.requests)) == (4, 40)


def test_a_connection_that_esms_closed_meanwhile_is_made_anew() -> None:
    def talk(served: Peer, line: socket.socket) -> None:
        served.read(line)
        body = '{"CodeResponse": "100"}'
        line.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    with peer(talk) as served, asking(served.url) as client:
        for _ in range(3):
            assert look_up(client, "x").code == "100"
            time.sleep(0.05)
        assert served.connections == 3


def test_after_a_timeout_the_next_look_up_is_a_fresh_one(sandbox: Sandbox, client: Client) -> None:
    slow, well = list(sandbox.calls)[2:4]
    sandbox.faults[slow] = "hang"
    assert [look_up(client, call).code for call in (well, slow, well)] == ["100", "timeout", "100"]


def test_passwords_of_the_environment_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with peer(replying("HTTP/1.1 200 OK", body='{"CodeResponse": "100"}')) as served, asking(served.url) as client:
        assert look_up(client, "x").code == "100"
        assert "Authorization" not in served.requests[0]


# Keys


def test_a_broken_header_is_logged_nowhere_with_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 warns of it, with the URL and so with the keys."""
    caplog.set_level(logging.DEBUG)
    head = ("HTTP/1.1 200 OK", "X-Fine: yes", "this is no header", "X-More: yes")
    with peer(replying(*head, body='{"CodeResponse": "100"}')) as served, asking(served.url) as client:
        look_up(client, "x")
        assert served.requests
    assert shown_keys(caplog.text) == []
    assert "GetSendStatus" not in caplog.text


@pytest.mark.parametrize("spell", [str, quote, quote_plus, lambda key: quote(key, safe="")])
def test_an_answer_that_repeats_our_request_loses_the_keys(spell: Callable[[str], str]) -> None:
    words = {"CodeResponse": "100", "CallStatus": f"WRONG {spell(API_KEY)}", "Url": f"?SecretKey={spell(SECRET_KEY)}&x"}
    with peer(replying("HTTP/1.1 200 OK", body=json.dumps(words))) as served, asking(served.url) as client:
        report = look_up(client, "x").report
        assert report is not None
        assert json.loads(report.payload) == {
            "CodeResponse": "100",
            "CallStatus": "WRONG ***",
            "Url": "?SecretKey=***&x",
        }
        assert report.call_status == "WRONG ***"


def test_a_code_that_is_a_key_is_kept_without_it() -> None:
    with (
        peer(replying("HTTP/1.1 200 OK", body=json.dumps({"CodeResult": SECRET_KEY}))) as served,
        asking(served.url) as client,
    ):
        assert look_up(client, "x").code == "***"


def test_a_key_as_short_as_in_tests_spoils_no_answer() -> None:
    body = '{"CodeResponse": "100", "CallStatus": "ANSWERED"}'
    with peer(replying("HTTP/1.1 200 OK", body=body)) as served, asking(served.url, keys=("1", "e")) as client:
        answer = look_up(client, "x")
        assert answer.report is not None
        assert answer.report.call_status == "ANSWERED"


@pytest.mark.parametrize(
    ("head", "seconds"),
    [
        (["Retry-After: 90"], 90),
        (["Retry-After: 0"], 0),
        (["Retry-After: 1" + "0" * 400], float("inf")),
        # By eSMS's clock, whatever this machine's says.
        (["Date: Mon, 23 Nov 2020 10:00:00 GMT", "Retry-After: Mon, 23 Nov 2020 10:02:00 GMT"], 120),
        (["Date: Mon, 23 Nov 2020 10:00:00 GMT", "Retry-After: Mon, 23 Nov 2020 09:00:00 GMT"], 0),
        (["Retry-After: Mon, 23 Nov 2020 10:02:00 GMT"], 0),
        (["Date: today", "Retry-After: Mon, 23 Nov 2020 10:02:00 GMT"], None),
        (["Date: Mon, 23 Nov 2020 10:00:00 -0000", "Retry-After: Mon, 23 Nov 2020 10:02:00 GMT"], None),
        (["Retry-After: soon"], None),
        (["Retry-After: -5"], None),
        (["Retry-After: 1.5"], None),
        (["Retry-After:"], None),
        (["X-Nothing: 1"], None),
    ],
)
def test_for_how_long_a_retry_after_pauses_look_ups(head: list[str], seconds: float | None) -> None:
    with peer(replying("HTTP/1.1 503 Busy", *head)) as served, asking(served.url) as client:
        answer = look_up(client, "a")

    assert (answer.code, answer.retry_after_seconds) == ("http-503", seconds)
