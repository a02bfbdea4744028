"""The usual callback on the wire: what is read here is what gunicorn reads in it, and all else is left to gunicorn."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from constants import CALLBACK_TOKEN
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from hypothesis import example, given
from hypothesis import strategies as st
from makers import stored_reports
from running import serving

from webapp.web import fast_path

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.database import Database

PATH = "/esms/callback/some-token_1.2~"
USUAL = f"GET {PATH}?ReferenceId=a&CallStatus= HTTP/1.1\r\nHost: calls.example.vn:8000\r\n\r\n"
BROWSER = (
    USUAL[:-2] + "User-Agent: Mozilla/5.0 (X11; é)\r\nAccept: */*, text/html;q=0.9\r\nConnection:  Keep-Alive\t\r\n\r\n"
)


def as_gunicorn_reads(content: bytes) -> dict[str, Any]:
    parser = RequestParser(Config(), iter([content]), ("192.0.2.1", 5))
    request = next(parser)
    _, environ = wsgi.create(request, None, ("192.0.2.1", 5), ("127.0.0.1", 8000), Config())
    assert request.body.read() == b""
    with pytest.raises(StopIteration):
        next(parser)
    return dict(environ)


def test_a_usual_callback_is_read() -> None:
    assert fast_path.read(USUAL.encode(), "192.0.2.1") == {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": PATH,
        "QUERY_STRING": "ReferenceId=a&CallStatus=",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "calls.example.vn:8000",
    }


@pytest.mark.parametrize(
    "unusual",
    [
        USUAL.replace("GET", "POST"),
        USUAL.replace("GET", "HEAD"),
        USUAL.replace("/esms/", "/esms//"),
        USUAL.replace(PATH, "/healthz"),
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
        USUAL * 2,
        USUAL + "x",
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
def test_anything_else_is_left_to_gunicorn(unusual: str) -> None:
    assert fast_path.read(unusual.encode("latin-1"), "192.0.2.1") is None


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
@example(token="t", query="", headers=[("a", ":", " \t x \t ", "\r\n"), ("Connection", ": ", "Close", "\r\n")])
def test_whatever_is_read_here_gunicorn_reads_so_too(token: str, query: str, headers: list[tuple[str, ...]]) -> None:
    lines = "".join("".join(header) for header in headers)
    content = f"GET /esms/callback/{token}?{query} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    if read := fast_path.read(content, "192.0.2.1"):
        assert read.items() <= as_gunicorn_reads(content).items()


@pytest.mark.parametrize("content", [USUAL, BROWSER.replace("é", "e")])
def test_callbacks_of_clients_as_they_are_common_are_usual(content: str) -> None:
    read = fast_path.read(content.encode(), "192.0.2.1")
    assert read
    assert read.items() <= as_gunicorn_reads(content.encode()).items()


def ask(line: socket.socket, request: str) -> bytes:
    """An answer, without the time in it."""
    line.sendall(request.encode())
    head, body = b"", b""
    while not head or len(body) < int(re.search(rb"Content-Length: (\d+)", head)[1]):  # type: ignore[index]
        body += line.recv(65536)
        if not head and b"\r\n\r\n" in body:
            head, _, body = body.partition(b"\r\n\r\n")
    return re.sub(rb"\r\nDate: [^\r]+", b"", head) + body


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("settings")
def test_over_one_connection_every_answer_is_the_same_as_gunicorn_gives_it(database: Database, tmp_path: Path) -> None:
    def request(path: str, header: str = "") -> str:
        return f"GET /esms/callback/{path} HTTP/1.1\r\nHost: x\r\n{header}\r\n"

    def connected(address: str) -> socket.socket:
        host, _, port = address.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)), timeout=30)

    paths = [
        f"{CALLBACK_TOKEN}?ReferenceId=a&SendStatus=7",
        f"{CALLBACK_TOKEN}?SendStatus=7",
        "another?ReferenceId=a",
        "",
    ]
    with serving(tmp_path / "log") as address, connected(address) as line:
        ask(line, request(paths[0]))
        usual = [ask(line, request(path)) for path in paths]
        by_gunicorn = [ask(line, request(path, "Content-Length: 0\r\n")) for path in paths]
        again = [ask(line, request(path)) for path in paths]
        with connected(address) as other:
            closing = ask(other, request(paths[0], "Connection: Close\r\n"))
            assert other.recv(1) == b""

    assert usual == by_gunicorn == again
    assert closing == usual[0].replace(b"keep-alive", b"close")
    assert [answer[:12] for answer in usual] == [b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 404"]
    assert len(stored_reports(database, "a")) == 5
