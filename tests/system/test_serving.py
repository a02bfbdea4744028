"""The server as a process: it starts, it ends, and idle or many clients cost no report."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import requests
from constants import API_TOKEN, CALLBACK_TOKEN, PROBE_OFTEN
from makers import by_reports, stored_call, stored_reports
from outages import silent_server
from running import Program, free_port, metrics_folder, serving, wait_until_healthy
from sqlalchemy import create_engine, make_url, select, text
from until import until

from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.calls import rule
from webapp.esms import parameters
from webapp.storage.database import Database
from webapp.storage.models import status_reports
from webapp.storage.schema import newest_migration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.support.settings import Settings

ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
SET = pytest.mark.usefixtures("settings")
URL = f"/esms/callback/{CALLBACK_TOKEN}"
QUICK_SECONDS = 5


class Server:
    """A server in a process group of its own."""

    def __init__(self, log: Path, **environment: str) -> None:
        """Start it, and wait until it serves."""
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self._log = log
        log.write_text("")
        self.process = Program("serve", "--bind", address, stdout=log, stderr=log, environment=environment)
        wait_until_healthy(self.url, self.process)

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def started(log: Path, **environment: str) -> Iterator[Server]:
    server = Server(log, **environment)
    with server.process:
        yield server


# Beginning and end


def test_a_server_started_in_an_empty_folder_prints_a_callback_url_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "CALLBACK_TOKEN", "API_TOKEN", "INSTANCE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    with started(tmp_path / "log") as server:
        printed = re.search(rf"CallbackUrl to give to eSMS:\n  ({server.url}/\S+)\n", server.log)
        assert printed
        answer = requests.get(printed[1].replace("ReferenceId=&", "ReferenceId=a&"), timeout=20)
        api = {"Authorization": f"Bearer {(tmp_path / 'instance/api_token').read_text().strip()}"}
        known = requests.get(f"{server.url}/api/calls/a", headers=api, timeout=20)

    assert (answer.status_code, answer.json()) == (200, {"result": "progressed"})
    assert known.json()["report_count"] == 1
    assert "set PUBLIC_URL to the server" in server.log


@SET
@ON_SQLITE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_connection_accepted_before_the_end_is_answered(
    database: Database, tmp_path: Path, number: signal.Signals
) -> None:
    """Also when the worker has closed its listening socket meanwhile."""
    requested = [f"GET {URL}?ReferenceId=a", f"POST {URL}?ReferenceId=b", "GET /healthz"]
    rest = "HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with started(tmp_path / "log") as server, ExitStack() as until_done:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        lines = [until_done.enter_context(socket.create_connection(address)) for _ in requested]
        time.sleep(0.1)
        server.process.send_signal(number)
        time.sleep(0.6)
        for line, words in zip(lines, requested, strict=True):
            line.sendall(f"{words} {rest}".encode())
        answers = [line.makefile("rb").readline() for line in lines]

    assert answers == [b"HTTP/1.1 200 OK\r\n"] * 3
    assert stored_call(database, "a").report_count == stored_call(database, "b").report_count == 1


@SET
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_server_has_stored_every_report_it_answered_200(
    database: Database, tmp_path: Path, number: signal.Signals
) -> None:
    answered: list[str] = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def send(sender: int, url: str) -> None:
        for place in range(10_000):
            name = f"{sender}-{place}"
            try:
                if requests.get(f"{url}{URL}?ReferenceId={name}&SendStatus=5", timeout=30).status_code == 200:
                    answered.append(name)
            except requests.ConnectionError:
                return

    with started(tmp_path / "log", TMPDIR=str(temporary)) as server, ThreadPoolExecutor(4) as senders:
        for sender in range(4):
            senders.submit(send, sender, server.url)
        while len(answered) < 50:
            time.sleep(0.01)
        os.killpg(server.process.pid, number) if number == signal.SIGKILL else server.process.send_signal(number)
        ended_with = server.process.wait(timeout=30)

    with database.snapshot(limited=False) as connection:
        stored = set(connection.scalars(select(status_reports.c.reference_id)))
    assert len(answered) >= 50
    assert set(answered) <= stored
    assert "Traceback" not in server.log
    if number != signal.SIGKILL:
        assert ended_with == 0
        assert list(temporary.glob("esms-calls-*")) == []


@ON_SQLITE
def test_server_with_the_spool_off_warns_of_callbacks_left_in_it(settings: Settings, tmp_path: Path) -> None:
    with serving(tmp_path / "none", SPOOL="off"):
        pass
    left = CallbackRequest(parameters.new_id(), datetime.now(UTC), None, "GET", None, b"ReferenceId=a", b"")
    with closing(Spool(settings.instance_dir, 1 << 20)) as spool:
        spool.append([left])
    with serving(tmp_path / "log", SPOOL="off"):
        pass

    words = (
        "1 callbacks wait in the spool from before it was off, and no server stores them: run `esms-calls spool drain`"
    )
    assert words in (tmp_path / "log").read_text()
    assert "spool drain" not in (tmp_path / "none").read_text()


@ON_SQLITE
@SET
def test_the_next_server_removes_the_metrics_files_of_a_killed_one_and_of_no_other(tmp_path: Path) -> None:
    with started(tmp_path / "living") as living, started(tmp_path / "killed") as killed:
        left = metrics_folder(killed.process.pid)
        os.killpg(killed.process.pid, signal.SIGKILL)
        killed.process.wait(timeout=30)
        assert list(left.glob("*.db"))
        with started(tmp_path / "next") as the_next:
            assert not left.exists()
            assert list(metrics_folder(living.process.pid).glob("*.db"))
            for server in (living, the_next):
                folder = metrics_folder(server.process.pid)
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(timeout=30) == 0
                assert not folder.exists()


def test_a_server_starts_without_its_postgresql_and_uses_it_once_it_is_back_and_migrated(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"away_{os.getpid()}"
    url = make_url(postgresql).set(database=name).render_as_string(hide_password=False)
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    tokens = {"CALLBACK_TOKEN": CALLBACK_TOKEN, "API_TOKEN": API_TOKEN}
    with started(tmp_path / "log", DATABASE_URL=url, SPOOL="off", **tokens) as server, engine.connect() as connection:

        def get(path: str) -> requests.Response:
            return requests.get(f"{server.url}{path}", timeout=20)

        assert "Warning: the database cannot be used now: " in server.log
        assert "Traceback" not in server.log
        away = [get(f"{URL}?ReferenceId=a"), get("/readyz")]
        connection.execute(text(f"CREATE DATABASE {name}"))
        empty = [get(f"{URL}?ReferenceId=a"), get("/readyz")]
        database = Database(url)
        database.migrate()
        back = [get(f"{URL}?ReferenceId=a"), get("/readyz")]
        database.close()
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()

    assert [[answer.status_code for answer in answers] for answers in (away, empty, back)] == [[503] * 2] * 2 + [
        [200] * 2
    ]
    assert away[0].headers["Retry-After"]
    assert away[1].json()["reason"] == "the database cannot be reached"
    assert f"not ready: {database.name}" in server.log
    assert f'"{name}" does not exist' in server.log
    assert "run `esms-calls migrate`" in empty[1].json()["reason"]


@ON_POSTGRESQL
@SET
def test_reading_a_call_with_very_many_reports_delays_no_other_request(tmp_path: Path, database: Database) -> None:
    many = (
        "INSERT INTO status_reports (id, reference_id, source, received_at, effect, payload) SELECT "
        "gen_random_uuid(), 'a', 'callback', now(), 'duplicate', '{}' FROM generate_series(1, 30000)"
    )
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO calls (reference_id) VALUES ('a')"))
    with database.transaction() as connection:
        connection.execute(text(many))

    with serving(tmp_path / "log", "--workers", "1") as server, ThreadPoolExecutor(1) as thread:

        def seconds(path: str) -> float:
            began = time.monotonic()
            found = requests.get(f"{server}{path}", headers={"Authorization": f"Bearer {API_TOKEN}"}, timeout=30)
            assert found.status_code == 200
            return time.monotonic() - began

        reading = thread.submit(seconds, "/api/calls/a")
        others = []
        while not reading.done():
            others.append(seconds("/healthz"))

    # One may be late for reasons of the machine's own.
    assert sorted(others)[-2] < reading.result() / 3


@ON_POSTGRESQL
@SET
def test_server_starts_beside_a_silent_database_and_stores_callbacks_once_it_answers(
    tmp_path: Path, database: Database
) -> None:
    # As short as psycopg lets it be.
    impatient = database.url.update_query_dict({"connect_timeout": "2"}).render_as_string(hide_password=False)
    with (
        silent_server(impatient, answers=1) as (url, proxy),
        started(tmp_path / "log", DATABASE_URL=url, CONSTANTS=json.dumps(PROBE_OFTEN)) as server,
    ):

        def send(name: str) -> str:
            return str(requests.get(f"{server.url}{URL}?ReferenceId={name}", timeout=10).json()["result"])

        assert "Warning: the database cannot be used now: " in server.log
        assert send("first") == "spooled"
        assert send("second") == "spooled"
        assert requests.get(f"{server.url}/readyz", timeout=20).status_code == 503

        proxy.answers_left = float("inf")
        until(
            lambda: stored_reports(database, "first") and stored_reports(database, "second"),
            20,
            "what was spooled is stored",
        )
        until(lambda: send("third") in {"progressed", "duplicate"}, 20, "the database is used")


@ON_POSTGRESQL
@SET
def test_database_that_returns_at_another_migration_is_not_used_until_migrated(
    tmp_path: Path, database: Database, postgresql: str
) -> None:
    def be_at(migration: str) -> None:
        statement = f"UPDATE alembic_version SET version_num = '{migration}'"  # noqa: S608
        with database.transaction() as connection:
            connection.execute(text(statement))

    def let_in(value: str) -> None:
        engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {database.url.database} ALLOW_CONNECTIONS {value}"))
        engine.dispose()

    be_at("0001")
    let_in("false")
    with started(tmp_path / "log", CONSTANTS=json.dumps(PROBE_OFTEN)) as server:

        def send(name: str) -> str:
            return str(requests.get(f"{server.url}{URL}?ReferenceId={name}", timeout=10).json()["result"])

        assert send("away") == "spooled"
        let_in("true")
        until(lambda: "migrate" in requests.get(f"{server.url}/readyz", timeout=20).text, 20, "it is found")
        assert {send(str(place)) for place in range(40)} == {"spooled"}
        time.sleep(0.5)
        assert send("again") == "spooled"

        be_at(newest_migration())
        until(lambda: send("migrated") != "spooled", 20, "the database is used")
        until(lambda: stored_reports(database, "again"), 20, "what was spooled is stored")


# Peers


HALVES = [
    b"",
    b"G",
    f"GET {URL}?ReferenceId=half HTTP/1.1\r\nHost: x\r\n".encode(),
    f"POST {URL}?ReferenceId=half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nSendStatus=5".encode(),
    f"POST {URL}?ReferenceId=half HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nSend".encode(),
]


PAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""A request whose sender never closes its side of the connection."""


@contextmanager
def connected(url: str, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Connections on each of which only these bytes were sent."""
    with ExitStack() as lines:
        host, _, port = url.removeprefix("http://").partition(":")
        found = [lines.enter_context(socket.create_connection((host, int(port)))) for _ in sent]
        for line, words in zip(found, sent, strict=True):
            line.sendall(words)
        yield found


def send_for(seconds: float, url: str) -> tuple[set[int], float]:
    """Send callbacks for some seconds; the statuses of the answers, and the longest time that one took."""
    statuses, slowest, end = set(), 0.0, time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        statuses.add(requests.get(f"{url}{URL}?ReferenceId=a&SendStatus=5", timeout=QUICK_SECONDS).status_code)
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.02)
    return statuses, slowest


@ON_SQLITE
@SET
def test_idle_connections_do_not_hold_up_callbacks(database: Database, tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server, connected(server, *HALVES * 10):
        statuses, slowest = send_for(0.5, server)

    assert statuses == {200}
    assert slowest < QUICK_SECONDS
    with database.snapshot(limited=False) as connection:
        assert connection.scalar(text("SELECT count(*) FROM calls WHERE reference_id = 'half'")) == 0


@ON_SQLITE
@SET
@pytest.mark.usefixtures("many_files")
def test_more_idle_connections_than_reports_may_wait_do_not_hold_up_callbacks(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--workers", "1") as server, connected(server, *[b""] * 2300):
        statuses, slowest = send_for(0.5, server)

    assert statuses == {200}
    assert slowest < QUICK_SECONDS


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 5000:
        pytest.skip(f"needs 5,000 open files, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@ON_SQLITE
@SET
def test_silent_connections_that_are_closed_do_not_hold_up_callbacks(database: Database, tmp_path: Path) -> None:
    bodies = json.dumps({"webapp.callbacks.views._BODY_SHARE": 0.1})  # half a second
    with (
        serving(tmp_path / "log", GUNICORN_CMD_ARGS="--keep-alive 1", CONSTANTS=bodies) as server,
        connected(server, *HALVES * 10) as lines,
        ThreadPoolExecutor(1) as reader,
    ):
        all_read = reader.submit(lambda: [read_to_the_end(line) for line in lines])
        found = []
        while not all_read.done():
            found.append(send_for(0.2, server))
        all_read.result()

    assert set().union(*(statuses for statuses, _ in found)) == {200}
    assert max(slowest for _, slowest in found) < QUICK_SECONDS
    with database.snapshot(limited=False) as connection:
        assert connection.scalar(text("SELECT count(*) FROM calls WHERE reference_id = 'half'")) == 0


def read_to_the_end(line: socket.socket) -> bytes:
    line.settimeout(20)
    with line.makefile("rb") as answer:
        return answer.read()


@ON_SQLITE
@SET
def test_peers_that_never_close_do_not_hold_up_callbacks(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server, connected(server, *[PAST] * 20):
        statuses, slowest = send_for(0.5, server)

    assert statuses == {200}
    assert slowest < QUICK_SECONDS


@SET
def test_workers_that_get_reports_of_one_call_from_many_clients_end_in_their_fold(
    database: Database, tmp_path: Path
) -> None:
    said = ["SendStatus=7&Ivr=9", "SendStatus=5&CallStatus=ANSWERED", "SendStatus=5&CallStatus=BUSY", "CID=842&Ivr=1"]
    start = threading.Barrier(12)

    def send(url: str, client: int) -> list[str]:
        start.wait(30)
        effects: list[str] = []
        for number in range(8):
            answer = requests.get(f"{url}{URL}?ReferenceId=one&{said[(client + number) % 4]}", timeout=30)
            answer.raise_for_status()
            effects.append(answer.json()["result"])
        return effects

    with serving(tmp_path / "log", "--workers", "3", ANSWER_WITHIN="60s") as server, ThreadPoolExecutor(12) as clients:
        results = [one for effects in clients.map(send, [server] * 12, range(12)) for one in effects]

    call, reports = stored_call(database, "one"), stored_reports(database, "one")
    assert call.report_count == len(reports) == len(results) == 96
    assert by_reports(call) == by_reports(rule.fold_all(call, reports))
    assert results.count("settled") == 1
    assert {report.ivr for report in reports} == {"9", None, "1"}
    with database.snapshot(limited=False) as connection:
        effects = list(connection.scalars(select(status_reports.c.effect)))
    assert sorted(effects) == sorted(results)


@ON_SQLITE
@pytest.mark.usefixtures("settings")
def test_unread_log_pipe_delays_no_answer_and_counts_its_lost_lines(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)

    def read() -> str:
        found = b""
        with suppress(BlockingIOError):
            while part := os.read(reader, 65536):
                found += part
        return found.decode()

    with serving(tmp_path / "log", "--workers", "1") as address, requests.Session() as session:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        for number in range(100):
            answer = session.get(f"{address}{URL}?ReferenceId={'x' * 100}{number}&SendStatus=5", timeout=QUICK_SECONDS)
            assert answer.status_code == 200
        before = read()
        session.get(f"{address}{URL}?ReferenceId=last&SendStatus=5", timeout=QUICK_SECONDS)
        after = read()
    os.close(reader)

    lost = re.match(r"(\d+) lines of this log are lost: the pipe was full\n.* settled last\n", after)
    assert lost
    assert 0 < before.count(" settled ") == 100 - int(lost[1])
