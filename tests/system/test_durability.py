"""Nothing that was answered 200 is lost or counted twice, whatever happens: to the server, its database, its disks.

Each test lets clients send all the time, does something bad at a random moment, and ends with the same account: every
200 is stored, once, every call is the fold of its reports, and every request was answered in time, by 200, 400 or 503.
``DURABILITY_SEED`` repeats a run's random choices; ``SOAK=1`` makes every outage long.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from constants import PROBE_OFTEN, SOAK
from ledger import MARKER, RECOVERY_SECONDS, SEED, Ledger, Load, Receiver, all_is_well, lasting
from outages import PostgreSQL, postgresql_of_ones_own, small_disk, sqlite_locked
from pooling import NEEDS_PGBOUNCER, pgbouncer
from running import free_port
from sqlalchemy import text
from until import until

from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.esms import parameters
from webapp.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Shared

ON_POSTGRESQL = pytest.mark.parametrize("kind", ["postgresql"])
ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"])
EFFECTS = {"settled", "stale", "conflict", "corrected", "confirmed", "enriched", "progressed", "duplicate"}
AFTER_KILL = {"RemoteDisconnected", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError"}
"""What a client sees of a server that is gone."""
DROPPED_WHEN_IDLE = {"RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"}
QUICK = {} if SOAK else PROBE_OFTEN
"""Constants of a receiver: in the long form its own."""
HASTY = QUICK if SOAK else QUICK | {"webapp.callbacks.ingest._DATABASE_SHARE": 0.1}
"""Of one that besides waits for a silent database for half a second, not two; the spool has the rest of the time."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql_of_ones_own() as server:
        yield server


class Stage:
    """A migrated database, receivers on it, and the ledger of all that they answer."""

    def __init__(self, folder: Path, url: str, random: Random) -> None:
        self.url = url
        self.database = Database(url)
        self.ledger = Ledger()
        self.random = random
        self.receivers: list[Receiver] = []
        self._folder = folder

    def receiver(self, *, log: Path | None = None, constants: dict[str, float] = QUICK, **environment: str) -> Receiver:
        """One more receiver, started; ``constants`` are those of the program that have other values."""
        folder = self._folder / f"receiver-{len(self.receivers)}"
        folder.mkdir()
        receiver = Receiver(folder, **{"DATABASE_URL": self.url, "CONSTANTS": json.dumps(constants), **environment})
        self.receivers.append(receiver)
        receiver.start(log)
        return receiver

    def load(self, *, clients: int = 6, fresh: bool = False, poison: str | None = None, padding: int = 0) -> Load:
        """Clients of all receivers."""
        return Load(
            *self.receivers,
            ledger=self.ledger,
            random=self.random,
            clients=clients,
            fresh=fresh,
            poison=poison,
            padding=padding,
        )

    def all_is_well(self, *, lost: frozenset[str] = frozenset(), in_time: bool = True) -> None:
        """The account in the end."""
        all_is_well(self.receivers, self.database, self.ledger, lost=lost, in_time=in_time)


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    print(f"DURABILITY_SEED={SEED} repeats this")
    return Random(f"{SEED} {request.node.name}")  # noqa: S311


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stage(kind: str, request: pytest.FixtureRequest, tmp_path: Path, random: Random, shared: Shared) -> Iterator[Stage]:
    if kind == "sqlite":
        url = f"sqlite:///{shutil.copyfile(shared.migrated_file, tmp_path / 'calls.db')}"
    else:
        url = request.getfixturevalue("postgres").migrated_database()
    with _stage(tmp_path, url, random) as stage:
        yield stage


@contextmanager
def _stage(folder: Path, url: str, random: Random) -> Iterator[Stage]:
    stage = Stage(folder, url, random)
    try:
        yield stage
    finally:
        for receiver in stage.receivers:
            receiver.clean_up()
        stage.database.close()


# The server


def test_a_server_that_is_killed_three_times_loses_nothing_that_it_answered(stage: Stage) -> None:
    receiver = stage.receiver()
    with stage.load() as load:
        for _ in range(3):
            load.go_on(0.2, lasting(0.5, 10))
            receiver.kill()
            receiver.start()
        load.until_effects_again()

    assert set(stage.ledger.results()) - AFTER_KILL <= {"400", *EFFECTS}
    stage.all_is_well()


def test_a_server_that_is_killed_while_its_database_is_away_loses_nothing_that_it_spooled(
    postgres: PostgreSQL, tmp_path: Path, random: Random
) -> None:
    with _stage(tmp_path, postgres.migrated_database(), random) as stage:
        receiver = stage.receiver()
        with stage.load() as load:
            load.go_on(0.1, 0.3)
            postgres.stop()
            for _ in range(3):
                load.until_answered("spooled", load.go_on(0.1, lasting(0.3, 10)), number=15)
                receiver.kill()
                receiver.start()
            postgres.start()
            load.until_effects_again()
        stage.all_is_well()


def test_a_worker_that_is_killed_is_replaced_and_loses_nothing_that_it_answered(stage: Stage) -> None:
    receiver = stage.receiver()
    with stage.load() as load:
        for _ in range(2):
            load.go_on(0.2, lasting(0.5, 10))
            victim = stage.random.choice(receiver.workers())
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: gone not in receiver.workers(), 10, "the worker is gone")  # type: ignore[misc]
            until(lambda: len(receiver.workers()) == 2, 10, "it is replaced")
        load.until_effects_again()

    assert stage.ledger.results()["ConnectionRefusedError"] == 0
    stage.all_is_well()


def test_a_server_that_is_ended_answers_what_it_has_and_ends_in_time(stage: Stage) -> None:
    receiver = stage.receiver()
    with stage.load() as load:
        load.go_on(0.2, lasting(0.5, 10))
        receiver.end()
        receiver.start()
        load.until_effects_again()

    assert [entry for entry in stage.ledger.entries if entry.status is None and entry.result not in AFTER_KILL] == []
    stage.all_is_well()


@ON_SQLITE
def test_a_restart_refuses_no_connection(stage: Stage) -> None:
    receiver = stage.receiver()
    with stage.load(fresh=True) as load, stage.load() as lasting_connections:
        for _ in range(2):
            load.go_on(0.2, lasting(0.6, 10))
            before = set(receiver.workers())
            receiver.signal(signal.SIGHUP)
            until(lambda old=before: not old & set(receiver.workers()), 40, "new workers are at work")  # type: ignore[misc]
        load.until_effects_again()
        lasting_connections.until_effects_again()

    unanswered = [entry for entry in stage.ledger.entries if entry.status is None]
    assert [entry for entry in unanswered if entry.fresh] == []
    assert {entry.result for entry in unanswered} <= DROPPED_WHEN_IDLE
    stage.all_is_well()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_log_that_cannot_be_written_changes_no_answer(stage: Stage) -> None:
    stage.receiver(log=Path("/dev/full"), constants=HASTY, PUBLIC_URL="")
    with stage.load() as load:
        load.go_on(0.2, lasting(0.5, 20))
        with sqlite_locked(Path(str(stage.database.url.database))):
            load.until_answered("spooled", load.go_on(0.1), number=20)
        load.until_effects_again()

    assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}
    stage.all_is_well()


# PostgreSQL


PATIENT = "20s"
"""ANSWER_WITHIN for outages that are noticed at once: a disk that is busy for seconds costs no 503 then."""


def away(how: str, postgres: PostgreSQL) -> AbstractContextManager[None]:
    """An outage of PostgreSQL, until the end of the block."""
    if how == "hung":
        return postgres.hung()
    if how == "read-only":
        return postgres.read_only()
    if how == "out of connections":
        return postgres.no_connections_left()
    if how == "wrong password":
        return postgres.another_password()
    return postgres.stopped()


@pytest.mark.parametrize(
    ("how", "quick"),
    [("stopped", 0.5), ("hung", 1.5), ("read-only", 0.5), ("out of connections", 0.5), ("wrong password", 0.5)],
)
@ON_POSTGRESQL
def test_while_postgresql_is_away_reports_are_spooled_and_then_stored(
    stage: Stage, postgres: PostgreSQL, how: str, quick: float
) -> None:
    hung = how == "hung"
    stage.receiver(ANSWER_WITHIN="5s" if hung else PATIENT, constants=HASTY if hung else QUICK)
    with stage.load() as load:
        load.go_on(0.2, 0.5)
        with away(how, postgres):
            began = load.go_on(lasting(quick, 60))
            load.until_answered("spooled", began, number=30)
        load.until_effects_again()

    assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}
    stage.all_is_well()


@ON_POSTGRESQL
def test_a_postgresql_that_is_restarted_in_mid_commit_costs_nothing(stage: Stage, postgres: PostgreSQL) -> None:
    stage.receiver(ANSWER_WITHIN=PATIENT)
    with stage.load() as load:
        for how in ("immediate", "fast", "immediate")[: 3 if SOAK else 2]:
            load.go_on(0.1, lasting(0.5, 10))
            postgres.stop(how)
            postgres.start()
            load.until_effects_again()

    assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}
    stage.all_is_well()


@NEEDS_PGBOUNCER
@ON_POSTGRESQL
def test_a_pgbouncer_that_is_restarted_costs_nothing(stage: Stage) -> None:
    port = free_port()
    with ExitStack() as running:
        pooled = running.enter_context(pgbouncer(stage.url, port=port))
        stage.receiver(DATABASE_URL=pooled, ANSWER_WITHIN=PATIENT)
        with stage.load() as load:
            load.go_on(0.2, 0.5)
            running.close()
            began = load.go_on(lasting(0.3, 20))
            load.until_answered("spooled", began, number=20)
            running.enter_context(pgbouncer(stage.url, port=port))
            load.until_effects_again()
        stage.all_is_well()

    assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}


@ON_POSTGRESQL
def test_of_two_receivers_on_one_database_one_with_a_full_spool_says_so_and_the_other_goes_on(
    stage: Stage, postgres: PostgreSQL
) -> None:
    small, large = stage.receiver(SPOOL_LIMIT="64KiB"), stage.receiver()
    with stage.load(clients=8, padding=2000) as load:
        load.go_on(0.2, 0.6)
        with postgres.stopped():
            load.until_answered("503", load.go_on(lasting(0.1, 30)), number=10)
        load.until_effects_again()

    assert set(stage.ledger.results()) <= {"400", "503", "spooled", *EFFECTS}
    assert "answered 503" in small.log
    assert "answered 503" not in large.log
    stage.all_is_well()


@ON_POSTGRESQL
def test_a_full_spool_is_drained_and_takes_again_under_load(stage: Stage, postgres: PostgreSQL) -> None:
    receiver = stage.receiver(SPOOL_LIMIT="64KiB")
    with stage.load(padding=600) as load:
        for _ in range(2):
            with postgres.stopped():
                began = load.go_on(0.1)
                load.until_answered("spooled", began, number=30)
                load.until_answered("503", began, number=10)
            load.until_effects_again()
            receiver.until_drained()

    stage.all_is_well()


# SQLite


@ON_SQLITE
def test_while_the_sqlite_file_is_locked_reports_are_spooled_and_then_stored(stage: Stage) -> None:
    stage.receiver(constants=HASTY)
    with stage.load() as load:
        load.go_on(0.2, 0.5)
        with sqlite_locked(Path(str(stage.database.url.database))):
            began = load.go_on(lasting(1, 20))
            load.until_answered("spooled", began, number=30)
        load.until_effects_again()

    assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}
    stage.all_is_well()


# Disks


def test_a_full_disk_of_the_database_costs_nothing(
    kind: str, tmp_path: Path, random: Random, request: pytest.FixtureRequest, shared: Shared
) -> None:
    with ExitStack() as until_the_end:
        disk = until_the_end.enter_context(small_disk(64))
        if kind == "sqlite":
            url = f"sqlite:///{shutil.copyfile(shared.migrated_file, disk.folder / 'calls.db')}"
        else:
            postgres = request.getfixturevalue("postgres")
            url = postgres.migrated_database(until_the_end.enter_context(postgres.small_tablespace(disk)))
        stage = until_the_end.enter_context(_stage(tmp_path, url, random))
        stage.receiver()
        with stage.load() as load:
            load.go_on(0.2, 0.6)
            disk.fill()
            load.until_answered("spooled", load.go_on(lasting(0.2, 20)), number=30, seconds=60)
            disk.free()
            load.until_effects_again()

        assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}
        stage.all_is_well()


@ON_POSTGRESQL
def test_full_spool_disk_gives_503_until_there_is_space_again(
    postgres: PostgreSQL, kind: str, tmp_path: Path, random: Random
) -> None:
    assert kind == "postgresql"
    with (
        small_disk(2) as disk,
        _stage(tmp_path, postgres.migrated_database(), random) as stage,
    ):
        stage.receiver(INSTANCE_DIR=str(disk.folder / "instance"))
        with stage.load() as load:
            load.go_on(0.1, 0.5)
            with postgres.stopped():
                for _ in range(2):
                    load.until_answered("spooled", load.go_on(0.1), number=20)
                    disk.fill()
                    load.until_answered("503", load.go_on(lasting(0.1, 10)), number=20)
                    disk.free()
                load.until_answered("spooled", load.go_on(0.1), number=20)
            load.until_effects_again()

        stage.all_is_well()


@ON_POSTGRESQL
def test_a_spool_that_filled_its_disk_by_itself_is_drained_all_the_same(
    postgres: PostgreSQL, kind: str, tmp_path: Path, random: Random
) -> None:
    assert kind == "postgresql"
    with (
        small_disk(1) as disk,
        _stage(tmp_path, postgres.migrated_database(), random) as stage,
    ):
        receiver = stage.receiver(INSTANCE_DIR=str(disk.folder / "instance"))
        with stage.load(clients=12, padding=6000) as load:
            for _ in range(2):
                with postgres.stopped():
                    began = load.go_on(0.1)
                    load.until_answered("503", began, number=20, seconds=60)
                    assert stage.ledger.results(began)["spooled"] > 30
                load.until_effects_again()
                receiver.until_drained()

        stage.all_is_well()


@ON_SQLITE
def test_full_disk_of_database_and_spool_gives_503_until_there_is_space_again(
    kind: str, tmp_path: Path, random: Random, shared: Shared
) -> None:
    assert kind == "sqlite"
    with small_disk(8) as disk:
        instance = disk.folder / "instance"
        instance.mkdir()
        url = f"sqlite:///{shutil.copyfile(shared.migrated_file, instance / 'calls.db')}"
        with _stage(tmp_path, url, random) as stage:
            stage.receiver(INSTANCE_DIR=str(instance))
            with stage.load() as load:
                for _ in range(2):
                    load.go_on(0.2, 0.6)
                    disk.fill()
                    load.until_answered("503", load.go_on(lasting(0.1, 20)), number=20, seconds=60)
                    disk.free()
                    load.until_effects_again()

            stage.all_is_well()


# The spool's folder and file


def test_a_deep_spool_is_drained_while_reports_get_effects(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    spool, number = Spool(folder, 1 << 30), int(lasting(2000, 200_000))
    for first in range(0, number, 1000):
        spool.append(
            [
                CallbackRequest(
                    parameters.new_id(), datetime.now(UTC), None, "GET", None, b"ReferenceId=deep-%d" % name, b""
                )
                for name in range(first, first + 1000)
            ]
        )
    spool.close()
    receiver = stage.receiver(INSTANCE_DIR=str(folder))
    with stage.load() as load:
        load.until_effects_again()
        receiver.until_drained(lasting(RECOVERY_SECONDS, 600))
        load.until_effects_again()

    with stage.database.snapshot(limited=False) as connection:
        stored = connection.scalar(text("SELECT count(*) FROM calls WHERE reference_id LIKE 'deep-%'"))
    assert stored == number
    stage.all_is_well()


@ON_POSTGRESQL
def test_a_spool_folder_that_is_gone_is_made_again(stage: Stage, postgres: PostgreSQL) -> None:
    receiver = stage.receiver()
    with stage.load() as load:
        with postgres.stopped():
            load.until_answered("spooled", load.go_on(0.2), number=20)
        load.until_effects_again()
        receiver.until_drained()
        receiver.instance.rename(receiver.instance.with_name("gone"))
        load.go_on(0.1, 0.3)
        with postgres.stopped():
            load.until_answered("spooled", load.go_on(0.1), number=20)
        load.until_effects_again()

    assert set(stage.ledger.results()) <= {"400", "spooled", *EFFECTS}
    stage.all_is_well()


@pytest.mark.parametrize("where", ["header", "middle"])
@ON_POSTGRESQL
def test_a_corrupt_spool_is_set_aside_and_what_sqlite_reads_of_it_is_stored(
    stage: Stage, postgres: PostgreSQL, where: str
) -> None:
    receiver = stage.receiver()
    with stage.load(clients=20) as load:
        with postgres.stopped():
            load.until_answered("spooled", load.go_on(0.1), number=200)
            receiver.kill()
            lost = frozenset(corrupt(receiver.instance / "spool.db", where))
            receiver.start()
            load.until_answered("spooled", load.go_on(0.1), number=10)
        load.until_effects_again()

    assert "THE SPOOL IS CORRUPT" in receiver.log
    assert len(list(receiver.instance.glob("spool-corrupt-*.db"))) == 1
    assert where == "header" or len(lost) < 40
    stage.all_is_well(lost=lost)


def corrupt(path: Path, where: str) -> list[str]:
    """Overwrite a part of the file; the markers that SQLite cannot read any more: without its header, all."""
    spool = sqlite3.connect(path)
    assert spool.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    pages, size = (spool.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    spool.close()
    content = path.read_bytes()
    start, end = (0, 100) if where == "header" else (pages // 2 * size, (pages // 2 + 2) * size)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (end - start))
    return MARKER.findall((content if where == "header" else content[start:end]).decode("latin-1"))


# Reports that the database refuses


POISON = {
    "postgresql": "ALTER TABLE status_reports ADD CONSTRAINT no_poison CHECK (reference_id <> 'poison')",
    "sqlite": "CREATE TRIGGER no_poison BEFORE INSERT ON status_reports WHEN new.reference_id = 'poison' "
    "BEGIN SELECT RAISE(ABORT, 'poison'); END",
}


def test_a_report_that_the_database_refuses_is_kept_apart_and_its_neighbours_are_stored(
    stage: Stage, kind: str
) -> None:
    with stage.database.transaction() as connection:
        connection.execute(text(POISON[kind]))
    stage.receiver()
    with stage.load(poison="poison") as load:
        load.go_on(lasting(1.5, 30))

    answers = {entry.result for entry in stage.ledger.entries if entry.reference_id == "poison"}
    assert answers == {"400"}
    stage.all_is_well()
