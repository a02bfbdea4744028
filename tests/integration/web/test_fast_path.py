"""The fast path changes nothing: answers, rows and log lines are the same with and without it, for any bytes."""

from __future__ import annotations

import re
import socket
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from constants import CALLBACK_TOKEN
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from running import serving
from sqlalchemy import select

from webapp.storage.database import Database
from webapp.storage.models import calls, rejected_callbacks, status_reports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = f"/esms/callback/{CALLBACK_TOKEN}"
WORKERS = {"fast": {"FAST_PATH": "on"}, "slow": {"FAST_PATH": "off"}}
DIFFERS = {"id", "first_at", "last_at", "received_at", "placed_at", "callback_at", "settled_at", "last_reported_at"}
DIFFERS |= {"created_at", "updated_at", "next_lookup_at"}


class Server:
    """A server of one worker, on a database of its own."""

    def __init__(self, address: str, folder: Path) -> None:
        """It listens on ``address``, and has its database and its log in ``folder``."""
        host, _, port = address.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._log = (folder / "log").open(encoding="utf-8")
        self.database = Database(f"sqlite:///{folder / 'calls.db'}")
        self.log_lines()

    def answers(self, *segments: bytes) -> bytes:
        """All that is answered on one connection to segments that are sent apart, without the dates."""
        with socket.create_connection(self._address, timeout=30) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place, segment in enumerate(segments):
                time.sleep(0.003 if place else 0)
                client.sendall(segment)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        return re.sub(rb"\r\nDate: [^\r]+", b"", answer)

    def log_lines(self) -> list[str]:
        """What was logged since, without times."""
        return [re.sub(r"^\S+ \S+ | [0-9.]+ms", "", line) for line in self._log.read().splitlines()]

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """What is stored, without ids and times."""
        with self.database.snapshot() as connection:
            found = {
                table.name: connection.execute(select(table).order_by(order)).mappings().all()
                for table, order in (
                    (calls, calls.c.reference_id),
                    (status_reports, status_reports.c.id),
                    (rejected_callbacks, rejected_callbacks.c.id),
                )
            }
        return {
            name: [{column: row[column] for column in row if column not in DIFFERS} for row in rows]
            for name, rows in found.items()
        }

    def close(self) -> None:
        self._log.close()
        self.database.close()


@contextmanager
def server_in(folder: Path, **environment: str) -> Iterator[Server]:
    """A server whose files are all in the folder."""
    folder.mkdir()
    private = {
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "INSTANCE_DIR": str(folder),
        "DATABASE_URL": f"sqlite:///{folder / 'calls.db'}",
        "TRUSTED_PROXIES": "1",
        "PYTHONHASHSEED": "0",  # werkzeug writes the header Allow in the order of a set
    }
    with (
        serving(folder / "log", "--workers", "1", **private, **environment) as address,
        closing(Server(address, folder)) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    folder = tmp_path_factory.mktemp("servers")
    with (
        server_in(folder / "fast", **WORKERS["fast"]) as fast,
        server_in(folder / "slow", **WORKERS["slow"]) as slow,
    ):
        yield {"fast": fast, "slow": slow}


def cut(content: bytes, places: list[int]) -> list[bytes]:
    """The content in segments that end at these places."""
    ends = sorted({place % (len(content) + 1) for place in places} | {len(content)})
    return [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def request(method: str, target: str, headers: list[str], body: bytes = b"", version: str = "HTTP/1.1") -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"{method} {target} {version}\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


TOKENS = st.sampled_from(
    [PATH] * 8 + [f"{PATH}x", PATH.upper(), f"{PATH}/", "/esms/callback/", f"{PATH}%41", "/esms", "/healthz", "*"]
)
QUERIES = st.sampled_from(
    [
        "?ReferenceId=a&SendStatus=5&CallStatus=ANSWERED",
        "?ReferenceId=A&SendStatus=7&Ivr=%23",
        "?SMSID=b&SendSuccess=1",
        "?SendStatus=5",
        "?ReferenceId=a&CallStatus=NO ANSWER",
        "?ReferenceId=a&Note=điện",
        "?ReferenceId=a&x=#1",
        f"?ReferenceId=a&Url={PATH}",
        f"?ReferenceId=a&Ivr={CALLBACK_TOKEN}",
        "?",
        "",
        f"?ReferenceId=a&x={'x' * 8000}",
    ]
) | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40).map("?ReferenceId=c&{}".format)
HEADERS = st.sampled_from(
    [
        "Host: calls.example.vn",
        "Host: a b",
        "Host:",
        "Connection: keep-alive",
        "Connection: close",
        "Connection: Close",
        "Connection: close, keep-alive",
        "Connection: upgrade",
        "Upgrade: websocket",
        "Content-Length: 0",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Content-Type: text/plain",
        "Expect: 100-continue",
        "Expect: something",
        "X-Forwarded-For: 203.0.113.7, 203.0.113.9",
        "X_Forwarded_For: 203.0.113.8",
        "X-Forwarded-Host: x:y",
        "X-Forwarded-Proto: https",
        "Script-Name: /esms",
        "Accept: */*",
        "A-Header-without-a-colon",
        " folded",
        f"X-Long: {'x' * 8180}",
        f"X-Longer: {'x' * 8190}",
    ]
) | st.tuples(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=9),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20),
).map(": ".join)
REQUESTS = st.builds(
    request,
    st.sampled_from(["GET"] * 6 + ["POST", "HEAD", "PUT", "OPTIONS", "get"]),
    st.tuples(TOKENS, QUERIES).map("".join),
    st.lists(HEADERS, max_size=4).map(lambda headers: ["Host: x", *headers]) | st.lists(HEADERS, max_size=4),
    st.sampled_from([b""] * 6 + [b"Ivr=5", b"5\r\nIvr=5\r\n0\r\n\r\n"]),
    st.sampled_from(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2.0"]),
)
USUAL = request("GET", f"{PATH}?ReferenceId=a&SendStatus=7", ["Host: x"])
UNUSUAL = request("POST", f"{PATH}?ReferenceId=a", ["Host: x", "Content-Length: 5"], b"Ivr=5")
MANY_HEADERS = request("GET", f"{PATH}?ReferenceId=a", [f"X-{number}: 1" for number in range(101)])
HUNDRED_HEADERS = request("GET", f"{PATH}?ReferenceId=a", [f"X-{number}: 1" for number in range(100)])


@examples(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pipelined=st.lists(REQUESTS, min_size=1, max_size=4),
    rest=st.sampled_from([b""] * 3 + [b"\r\n", b"G", b"GET /healthz HTTP/1.1\r\n"]) | st.binary(max_size=40),
    places=st.lists(st.integers(0, 1 << 16), max_size=3),
)
@example(pipelined=[USUAL, USUAL, USUAL], rest=b"", places=[])
@example(pipelined=[USUAL, UNUSUAL, USUAL], rest=b"", places=[])
@example(pipelined=[USUAL, UNUSUAL, USUAL], rest=b"", places=[40, 80, 120])
@example(pipelined=[MANY_HEADERS], rest=b"", places=[])
@example(pipelined=[HUNDRED_HEADERS, USUAL], rest=b"", places=[])
@example(pipelined=[USUAL], rest=b"GET " + PATH.encode(), places=[])
def test_any_bytes_in_any_segments_get_the_same_answers_rows_and_log_lines(
    servers: dict[str, Server], pipelined: list[bytes], rest: bytes, places: list[int]
) -> None:
    segments = cut(b"".join(pipelined) + rest, places)

    answers = {name: server.answers(*segments) for name, server in servers.items()}

    assert answers["fast"] == answers["slow"]
    assert servers["fast"].log_lines() == servers["slow"].log_lines()
    assert servers["fast"].rows() == servers["slow"].rows()


def test_answers_of_either_worker_and_to_what_is_no_http_have_the_headers_that_every_answer_has(
    servers: dict[str, Server],
) -> None:
    asked = [USUAL, UNUSUAL, request("GET", f"{PATH}x", ["Host: x"])], [b"what is no HTTP\r\n\r\n"], [MANY_HEADERS]
    for server in servers.values():
        answers = [server.answers(*segments) for segments in asked]
        assert [answer.count(b"HTTP/1.1 ") for answer in answers] == [3, 1, 1]
        for answer in answers:
            for line in (b"X-Content-Type-Options: nosniff\r\n", b"Cache-Control: no-store\r\n"):
                assert answer.count(line) == answer.count(b"HTTP/1.1 ")


@pytest.mark.parametrize("worker", ["--worker-class webapp.web.worker.Worker", "--worker-class gevent"])
def test_callbacks_are_taken_by_other_workers_too(tmp_path: Path, worker: str) -> None:
    with server_in(tmp_path / "other", GUNICORN_CMD_ARGS=worker) as server:
        answer = server.answers(
            USUAL,
            UNUSUAL,
            request("POST", PATH, ["Host: x", "Transfer-Encoding: chunked"], b"d\r\nReferenceId=b\r\n0\r\n\r\n"),
            request("GET", f"{PATH}?CallStatus=NO ANSWER", ["Host: x"]),
            request("GET", f"{PATH}?ReferenceId=a&CallStatus=NO ANSWER&SendStatus=5", ["Host: x"]),
            request("POST", f"{PATH}x", ["Host: x", "Content-Length: 1000000"]),
        )
        rows = server.rows()

    assert re.findall(rb"^HTTP/1.1 (\d+)", answer, re.MULTILINE) == [b"200"] * 3 + [b"400", b"200", b"404"]
    assert [row["reference_id"] for row in rows["status_reports"]] == ["a", "a", "b", "a"]
    assert [row["reason"] for row in rows["rejected_callbacks"]] == ["ReferenceId: is missing"]
    assert rows["calls"][0]["call_status"] == "NOANSWERED"
    assert answer.count(b"Connection: close") == 1
