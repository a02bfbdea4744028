"""The fast path's reading: what it reads is what gunicorn reads, and it leaves everything unusual to gunicorn."""

from __future__ import annotations

import re
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from webapp.callbacks.views import Answer
from webapp.web import fast_path
from webapp.web.worker import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = Config()
PATH = "/esms/callback/some-token_1.2~"
USUAL = f"GET {PATH}?ReferenceId=a&CallStatus= HTTP/1.1\r\nHost: calls.example.vn:8000\r\n\r\n"
BROWSER = (
    USUAL[:-2] + "User-Agent: Mozilla/5.0 (X11; é)\r\nAccept: */*, text/html;q=0.9\r\nConnection:  Keep-Alive\t\r\n\r\n"
)


def read(content: bytes) -> dict[str, Any] | None:
    """The environment, if the fast path reads all of the content."""
    found = fast_path.read(content, "192.0.2.1", CONFIG)
    if found is None:
        return None
    environ, length = found
    assert length == len(content)
    return environ


def as_gunicorn_reads(content: bytes) -> dict[str, Any]:
    parser = RequestParser(CONFIG, iter([content]), ("192.0.2.1", 5))
    request = next(parser)
    _, environ = wsgi.create(request, None, ("192.0.2.1", 5), ("127.0.0.1", 8000), CONFIG)
    assert request.body.read() == b""
    with pytest.raises(StopIteration):
        next(parser)
    return dict(environ)


def test_a_usual_callback_is_read() -> None:
    assert read(USUAL.encode()) == {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": PATH,
        "QUERY_STRING": "ReferenceId=a&CallStatus=",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "calls.example.vn:8000",
    }


def test_a_slash_behind_the_token_is_left_out() -> None:
    assert read(USUAL.replace(PATH, PATH + "/").encode()) == read(USUAL.encode())


@pytest.mark.parametrize(
    "unusual",
    [
        USUAL.replace("GET", "POST"),
        USUAL.replace("GET", "HEAD"),
        USUAL.replace("/esms/", "/esms//"),
        USUAL.replace(PATH, "/healthz"),
        USUAL.replace(PATH, PATH + "//"),
        USUAL.replace(PATH, "http://x" + PATH),
        USUAL.replace(PATH, PATH + "%41"),
        USUAL.replace("CallStatus=", "CallStatus=NO ANSWER"),
        USUAL.replace("CallStatus=", "CallStatus=é"),
        USUAL.replace("CallStatus=", "CallStatus=#5"),
        USUAL.replace("1.1", "1.0"),
        USUAL.replace("\r\n", "\n"),
        USUAL[:-1],
        USUAL[:-2],
        USUAL[1:],
        "\r\n" + USUAL,
        USUAL.replace("CallStatus=", "CallStatus=" + "x" * 8200),
        USUAL.replace("\r\n\r\n", f"\r\nAccept: {'x' * 8190}\r\n\r\n"),
        USUAL.replace("\r\n\r\n", "".join(f"\r\nX-{number}: a" for number in range(100)) + "\r\n\r\n"),
        USUAL.replace("calls.example.vn:8000", "a b"),
        USUAL.replace("calls.example.vn:8000", "calls.example.vn, calls.example.vn"),
        USUAL.replace("some-token_1.2~", ""),
        USUAL.replace("Host", "Host "),
        USUAL.replace("Host: ", "Host: \0"),
        USUAL.replace("Host: ", " folded\r\nHost: "),
        *(
            USUAL.replace("Host", f"{header}\r\nHost")
            for header in (
                "Host: another",
                "content-length: 0",
                "Content-Type: text/plain",
                "Transfer-Encoding: chunked",
                "Expect: 100-continue",
                "Upgrade: h2c",
                "Connection: Upgrade",
                "Connection: close, keep-alive",
                "X_Forwarded_For: 198.51.100.1",
                ": nameless",
                "wordless",
            )
        ),
    ],
)
def test_everything_else_is_left_to_gunicorn(unusual: str) -> None:
    assert read(unusual.encode("latin-1")) is None


def test_a_request_behind_another_is_left_for_later() -> None:
    alone = fast_path.read(USUAL.encode(), "192.0.2.1", CONFIG)

    assert fast_path.read((USUAL * 2).encode(), "192.0.2.1", CONFIG) == alone
    assert fast_path.read(f"{USUAL}x".encode(), "192.0.2.1", CONFIG) == alone
    assert alone
    assert alone[1] == len(USUAL)


VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
NAMES = st.sampled_from(["Host", "Accept", "X-Forwarded-For", "Connection", "Content-Length", "Te", "A_b"]) | st.text(
    VISIBLE
)
VALUES = st.sampled_from(["close", "Keep-Alive", "0"]) | st.text(st.characters(max_codepoint=0xFF))
HEADERS = st.lists(
    st.tuples(NAMES, st.sampled_from([":", ": ", " : ", ""]), VALUES, st.sampled_from(["\r\n", "\n", " \t\r\n"]))
)


@given(token=st.text(VISIBLE), query=st.text(VISIBLE), headers=HEADERS)
@example(token="t", query="a=#&?=%41", headers=[])
@example(token="t/", query="", headers=[])
@example(token="t", query="", headers=[("a", ":", " \t x \t ", "\r\n"), ("Connection", ": ", "Close", "\r\n")])
def test_gunicorn_reads_likewise_what_the_fast_path_reads(
    token: str, query: str, headers: list[tuple[str, ...]]
) -> None:
    lines = "".join("".join(header) for header in headers)
    content = f"GET /esms/callback/{token}?{query} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    if found := read(content):
        theirs = as_gunicorn_reads(content)
        # A slash behind the token changes nothing; Flask's route takes it away.
        assert found.items() <= (theirs | {"PATH_INFO": theirs["PATH_INFO"].removesuffix("/")}).items()


@pytest.mark.parametrize("content", [USUAL, BROWSER.replace("é", "e")])
def test_callbacks_of_common_clients_are_usual(content: str) -> None:
    found = read(content.encode())
    assert found
    assert found.items() <= as_gunicorn_reads(content.encode()).items()


class OneAnswer:
    """A receiver that answers the same to every callback."""

    def receive(self, *_: object) -> Answer:
        return Answer(200, {"result": "by the fast path"}, {})


@pytest.fixture
def worker() -> Iterator[fast_path.FastWorker]:
    """A worker of an application that answers everything itself, and gives another receiver to the fast path."""
    app = Flask(__name__)
    app.extensions["receiver"] = OneAnswer()
    app.config["TRUSTED_PROXIES"] = 0
    app.add_url_rule("/<path:path>", "all", lambda path: {"result": f"by Flask {path[:0]}"}, methods=["GET", "POST"])
    worker = fast_path.FastWorker(1, 0, [], SimpleNamespace(wsgi=lambda: app), 30, CONFIG, Logger(CONFIG))
    worker.load_wsgi()
    yield worker
    worker.tmp.close()


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_a_usual_request_after_an_unusual_one_is_read_fast_again(worker: fast_path.FastWorker, segments: int) -> None:
    requests = f"{USUAL}{USUAL.replace('GET', 'POST')}{USUAL}".encode()
    here, there = socket.socketpair()
    with here, there:
        connection = Connection(there)
        for place in range(segments):
            size = -(-len(requests) // segments)
            here.sendall(requests[place * size : (place + 1) * size])
        goes_on = [worker.answer_next(("127.0.0.1", 1), connection, ("127.0.0.1", 2)) for _ in range(3)]
        answers = here.recv(65536)

    assert goes_on == [True, True, True]
    assert re.findall(rb"by (\w+)", answers) == [b"the", b"Flask", b"the"]


def test_an_unusual_request_has_no_more_time_for_its_head_than_a_usual_one(
    worker: fast_path.FastWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(Connection, "expect_request", lambda _, seconds: limits.append(seconds))
    here, there = socket.socketpair()
    with here, there:
        here.sendall(USUAL.replace("GET", "POST").encode())
        assert worker.answer_next(("127.0.0.1", 1), Connection(there), ("127.0.0.1", 2))

    assert limits == [CONFIG.keepalive]
