"""``reconcile --watch``, a service: it runs through outages, reports that it is working, and ends on a signal."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import requests
from outages import postgresql_of_ones_own
from reconciling import ON_SQLITE, asked, claimed, counts, missing, rows, runs
from running import Program, free_port
from until import until

from webapp.esms.client import Client
from webapp.reconcile import watch
from webapp.reconcile.run import Progress
from webapp.reconcile.watch import DatabaseChange, Idle, Watch, Watchdog, health_endpoint
from webapp.storage import lookup_rate
from webapp.storage.database import Database
from webapp.storage.errors import Unavailable
from webapp.storage.filters import EVERY_CALL
from webapp.storage.models import calls
from webapp.storage.reader import Reader
from webapp.storage.runs import Run
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outages import PostgreSQL
    from reconciling import Command

    from webapp.esms.sandbox.service import Sandbox

SOON = 25
"""Seconds in which a service that may end has ended, on a machine that is busy."""
OFTEN = {"CONSTANTS": '{"webapp.cli.reconcile._EVERY": 0.1}'}
"""The pause between two runs is a tenth of a second, where no other is asked for."""
AWAY = "The database cannot be used: "


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql_of_ones_own() as server:
        yield server


def stop(process: Program, reconcile: Command, number: signal.Signals = signal.SIGTERM) -> str:
    """End it as systemd does; what it said on standard error."""
    begun = time.monotonic()
    process.send_signal(number)
    code, _, said = reconcile.end(process)
    assert (code, time.monotonic() - begun < SOON) == (0, True), said
    return said


def all_settled(database: Database) -> bool:
    return all(call["settled_at"] for call in rows(database, calls))


class Systemd:
    """A socket to which a service sends its states."""

    def __init__(self, address: str) -> None:
        self.states: list[str] = []
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while words := self._line.recv(1000):
            self.states.append(words.decode())

    def close(self) -> None:
        self._line.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._line.close()


@contextmanager
def systemd(address: str) -> Iterator[Systemd]:
    listening = Systemd(address)
    try:
        yield listening
    finally:
        listening.close()


# What it does


def test_it_asks_about_calls_as_they_become_due_and_writes_no_run_at_once_where_nothing_is(
    esms: Sandbox, database: Database, reconcile: Command, tmp_path: Path
) -> None:
    with systemd(str(tmp_path / "notify")) as manager:
        # At most every 50 ms, and so hardly more than twice between two runs.
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000", **OFTEN}
        with reconcile.beside("--watch", **environment) as process:
            until(lambda: manager.states.count("WATCHDOG=1") >= 12)
            assert rows(database, calls) == []
            assert runs(database) == []
            reference_ids = missing(esms, database, 3)
            until(lambda: all_settled(database) and runs(database) == ["done"])
            stop(process, reconcile)

    assert sorted(asked(esms)) == sorted(reference_ids)


@pytest.mark.parametrize(
    ("doing", "number"),
    [("rest", signal.SIGTERM), ("run", signal.SIGTERM), ("pause", signal.SIGTERM), ("run", signal.SIGINT)],
)
def test_it_ends_with_0_within_seconds_whatever_it_is_doing(
    esms: Sandbox, database: Database, reconcile: Command, doing: str, number: signal.Signals
) -> None:
    reference_ids = [] if doing == "rest" else missing(esms, database, 60)
    esms.options = replace(esms.options, latency=0.1)
    if doing == "pause":
        lookup_rate.slow_down(database, 3600, halve=False)
    port = free_port()
    health = ["--health-port", str(port)] if doing == "rest" else []
    with reconcile.beside("--watch", *health, RECONCILE_CONCURRENCY="2") as process:
        until(
            {
                "rest": lambda: is_healthy(port),
                "run": lambda: len(esms.lookups) >= 4,
                "pause": lambda: claimed(database),
            }[doing]
        )
        stop(process, reconcile, number)

    assert claimed(database) == []
    assert runs(database) == ([] if doing == "rest" else ["interrupted"])
    done = [call["reference_id"] for call in rows(database, calls) if call["settled_at"]]
    assert sorted(done) == sorted(asked(esms))
    assert len(done) < max(1, len(reference_ids))


def is_healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


# What may happen to it


@ON_SQLITE
def test_while_esms_does_not_answer_it_waits_at_least_a_minute(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 100)
    esms.answer_all_with("reset")
    with reconcile.beside("--watch", **OFTEN) as process:
        until(lambda: runs(database) == ["failures"])
        asked_by_then = len(esms.lookups)
        time.sleep(0.5)
        assert runs(database) == ["failures"]
        shown = stop(process, reconcile)

    assert 30 <= len(esms.lookups) == asked_by_then <= 60
    assert "eSMS does not answer (unreachable" in shown


@ON_SQLITE
def test_few_failures_are_no_reason_to_wait_for_longer(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 3)
    esms.answer_all_with("reset")
    with reconcile.beside("--watch", "--every", "1s") as process:
        until(lambda: runs(database) == ["failures"])
        esms.answer_all_with(None)
        missing(esms, database, 3)
        until(lambda: runs(database) == ["failures", "done"])
        stop(process, reconcile)

    assert len(esms.lookups) == 6


@ON_SQLITE
def test_it_starts_while_the_database_is_away_or_not_migrated_and_goes_on_after_every_outage(
    esms: Sandbox, reconcile: Command, server: PostgreSQL
) -> None:
    url = server.new_database()
    database = Database(url)
    with reconcile.beside("--watch", DATABASE_URL=url, RECONCILE_RATE="20", **OFTEN) as process:
        with server.stopped():
            until(lambda: AWAY in process.said())
        until(lambda: "run `esms-calls migrate`" in process.said())
        database.migrate()
        missing(esms, database, 3)
        until(lambda: all_settled(database))

        for outage in (server.stopped, server.hung):
            missing(esms, database, 30)
            before = len(esms.lookups)
            until(lambda before=before: len(esms.lookups) > before + 5)  # type: ignore[misc]
            troubles = process.said().count(AWAY)
            with outage():
                if outage == server.hung:
                    time.sleep(1)
                else:
                    until(lambda troubles=troubles: process.said().count(AWAY) > troubles)  # type: ignore[misc]
            within_a_minute(lambda: all_settled(database))
        assert process.poll() is None
        troubles = process.said().count(AWAY)
        with server.stopped():
            until(lambda: process.said().count(AWAY) > troubles)
            said = stop(process, reconcile)

    assert said.count(AWAY) <= 2 + 4 * 2  # once for each new trouble
    assert "run `esms-calls migrate`" in said
    assert said.count("The database can be used again.") >= 2
    assert max(asked(esms).count(reference_id) for reference_id in set(asked(esms))) <= 2
    assert runs(database).count(None) == 0
    assert claimed(database) == []
    database.close()


def within_a_minute(condition: object) -> None:
    until = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it was not available again within a minute"
        time.sleep(0.1)


@ON_SQLITE
def test_it_goes_on_where_the_database_goes_away_right_after_a_run(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of the last day cannot be read then."""

    def gone(*_: object) -> float:
        raise Unavailable("the database is gone")

    def end() -> None:
        until(lambda: runs(database) == ["done"])
        if not ended.wait(0.3):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Reader, "lookup_share", gone)
    ended = threading.Event()
    missing(esms, database, 2)
    ending = threading.Thread(target=end)
    ending.start()
    result = reconcile("--watch")
    ended.set()
    ending.join()

    assert (result.exit_code, "settled 2" in result.stdout) == (0, True), result.output


@ON_SQLITE
def test_it_goes_on_where_its_summaries_cannot_be_written(esms: Sandbox, database: Database) -> None:
    """The disk under its log is full."""
    missing(esms, database, 2)
    with Program("reconcile", "--watch", stdout=Path("/dev/full"), environment=OFTEN) as process:
        until(lambda: runs(database) == ["done"])
        missing(esms, database, 2)
        until(lambda: runs(database) == ["done", "done"])
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SOON)

    assert (process.returncode, said) == (0, "")


# How it reports that it is working


@pytest.mark.parametrize("address", ["{folder}/notify", "@esms-calls-test-{process}"])
@ON_SQLITE
def test_systemd_is_notified_that_it_is_ready_working_and_stopping(
    esms: Sandbox, database: Database, reconcile: Command, tmp_path: Path, address: str
) -> None:
    """Also while a run takes long."""
    where = address.format(folder=tmp_path, process=os.getpid())
    missing(esms, database, 200)
    esms.options = replace(esms.options, latency=0.1)
    environment = {"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "200000", "RECONCILE_CONCURRENCY": "2"}
    with systemd(where) as manager, reconcile.beside("--watch", **environment) as process:
        begun = time.monotonic()
        until(lambda: manager.states.count("WATCHDOG=1") >= 5)
        assert time.monotonic() - begun < SOON
        assert not all_settled(database)
        stop(process, reconcile)
        until(lambda: "STOPPING=1" in manager.states)

    assert manager.states[0] == "READY=1"
    assert manager.states[-1] == "STOPPING=1"
    assert set(manager.states) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}


@ON_SQLITE
def test_a_health_port_that_is_taken_is_said_and_ends_it(esms: Sandbox, reconcile: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = reconcile("--watch", "--health-port", str(port))

    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use): choose another --health-port" in result.stderr
    assert asked(esms) == []


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class FakeStop(threading.Event):
    """Waiting for it takes no time but that of the fake clock."""

    def __init__(self, clock: FakeTime) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self._clock.now += timeout
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(watch, "time", clock)
    return clock


@pytest.mark.parametrize(("watchdog", "every"), [("", 5.0), ("4000000", 2.0), ("60000000", 5.0), ("soon", 5.0)])
def test_while_it_waits_it_pings_systemd_twice_in_the_time_that_systemd_waits(
    clock: FakeTime, monkeypatch: pytest.MonkeyPatch, watchdog: str, every: float
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", watchdog)
    service, stop = Watchdog(), FakeStop(clock)
    states: list[str] = []
    monkeypatch.setattr(service, "notify", states.append)

    service.sleep(timedelta(seconds=61), stop)

    assert clock.now == 61
    assert max(stop.waits) == every
    assert len(states) == -(-61 // every)


def test_it_is_healthy_until_there_was_no_ping_for_five_minutes(clock: FakeTime) -> None:
    watchdog, port = Watchdog(), free_port()
    with health_endpoint(port, watchdog):
        answers = []
        for seconds in (0, 299, 301):
            clock.now = seconds
            answer = requests.get(f"http://127.0.0.1:{port}/healthz?x=1", timeout=5)
            answers.append((answer.status_code, answer.text))
        watchdog.ping()
        assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
        assert requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 404

    assert answers == [(200, "ok\n"), (200, "ok\n"), (503, "hangs\n")]


def test_a_socket_that_does_not_exist_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))

    Watchdog().notify("READY=1")


# How long it waits between two runs


def progress(ended: Any = None) -> Progress:
    run = Run(id=UUID(int=1), started_at=datetime.now(UTC), host="here")
    return Progress(run=run, due=1, ended=ended)


@pytest.mark.parametrize(
    ("happens", "every", "pause"),
    [
        (None, 1, 1),
        (None, 300, 300),
        (progress(), 1, 1),
        (progress("no answer"), 1, 60),
        (progress("refused"), 1, 60),
        (progress("no answer"), 300, 300),
        (Unavailable("it is away"), 1, 1),
        (Unavailable("it is away"), 300, 30),
    ],
)
def test_it_waits_longer_while_esms_is_down_and_not_long_while_the_database_is(
    clock: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
    happens: Progress | Unavailable | None,
    every: int,
    pause: float,
) -> None:
    stop, steps = FakeStop(clock), iter([happens])

    def run_once(*_: object, **__: object) -> Progress | None:
        step = next(steps, "the end")
        if isinstance(step, Unavailable):
            raise step
        if step == "the end":
            stop.set()
            return None
        return step  # type: ignore[return-value]

    monkeypatch.setattr(Watch, "_run", run_once)
    service = Watch(None, None, None, Watchdog())  # type: ignore[arg-type]

    events = list(service.runs(grace=None, within=EVERY_CALL, every=timedelta(seconds=every), stop=stop))

    assert clock.now == pause
    expected: list[object] = [Idle()] if happens is None else [happens]
    if isinstance(happens, Unavailable):
        expected = [DatabaseChange("it is away"), DatabaseChange(None), Idle()]
    assert events == expected


@ON_SQLITE
def test_where_no_call_is_due_it_runs_every_20_minutes_so_that_status_does_not_take_it_for_stopped(
    clock: FakeTime, database: Database
) -> None:
    stop, client = FakeStop(clock), Client("http://127.0.0.1:1", "key", "secret", timedelta(seconds=1))
    service = Watch(database, client, Settings(), Watchdog())

    events: list[tuple[float, type]] = []
    for event in service.runs(grace=None, within=EVERY_CALL, every=timedelta(minutes=1), stop=stop):
        events.append((clock.now, type(event)))
        if clock.now >= 2400:
            stop.set()

    assert events == [(0.0, Idle), (1200.0, Progress), (2400.0, Progress)]
    assert runs(database) == ["done", "done"]


# Its options


@pytest.mark.parametrize(
    "arguments",
    [
        ["--watch", "--dry-run"],
        ["--watch", "--limit", "3"],
        ["--watch", "--retry-given-up"],
        ["--watch", "--every", "0s"],
        ["--every", "5s"],
        ["--every", "0s"],
        ["--health-port", "8809"],
    ],
)
@ON_SQLITE
def test_options_that_do_not_go_together_are_a_usage_error(
    esms: Sandbox, database: Database, reconcile: Command, arguments: list[str]
) -> None:
    missing(esms, database, 1)

    result = reconcile(*arguments)

    assert (result.exit_code, asked(esms), runs(database)) == (2, [], [])
    assert any(name in result.stderr.splitlines()[-1] for name in arguments if name != "--watch")


@ON_SQLITE
def test_it_wants_keys_at_once(esms: Sandbox, reconcile: Command) -> None:
    result = reconcile("--watch", ESMS_API_KEY=None)

    assert (result.exit_code, asked(esms)) == (2, [])
    assert "ESMS_API_KEY" in result.stderr


@ON_SQLITE
def test_it_shows_each_run_as_a_single_run_does(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 2)
    with reconcile.beside("--watch", "--json") as process:
        until(lambda: runs(database) == ["done"])
        process.send_signal(signal.SIGTERM)
        code, shown, _ = reconcile.end(process)

    assert (code, counts(shown)) == (0, {"checked": 2, "settled": 2})
