"""A new version takes the place of the one before, under load, and nothing that was answered 200 is missing."""

from __future__ import annotations

import signal
import socket
import threading
import time
from random import Random
from typing import TYPE_CHECKING

import pytest
import requests
from ledger import MARGIN_SECONDS, SEED, TOKEN, Ledger, Load, Receiver, all_is_well, lasting
from makers import stored_reports
from outages import PostgreSQL, postgresql_of_ones_own
from until import until
from versions import NEXT_MIGRATION, Installed, InstalledReceiver, make_next_version

from webapp.storage.database import Database
from webapp.storage.schema import newest_migration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DRAIN_SECONDS = 5.0
EFFECTS = {"settled", "stale", "conflict", "corrected", "confirmed", "enriched", "progressed", "duplicate"}
DROPPED_WHEN_IDLE = {"RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"}
"""What a client may see that sends on a kept connection at the very moment at which the server closes it."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql_of_ones_own() as server:
        yield server


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the next version, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("newer")
    make_next_version(folder)
    return str(folder)


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    print(f"DURABILITY_SEED={SEED} repeats this")
    return Random(f"{SEED} {request.node.name}")  # noqa: S311


@pytest.fixture
def database(postgres: PostgreSQL) -> Iterator[Database]:
    database = Database(postgres.migrated_database())
    yield database
    database.close()


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def migrate(receiver: InstalledReceiver, folder: Path) -> None:
    log = folder / "migrate"
    process = Installed("migrate", environment=receiver.environment, stdout=log, stderr=log, folder=folder)
    assert process.wait(60) == 0, log.read_text()
    assert f"is at migration {NEXT_MIGRATION} (was {newest_migration()})" in log.read_text()


def seconds_to_end(receiver: Receiver) -> float:
    began = time.monotonic()
    receiver.end()
    return time.monotonic() - began


def test_a_server_is_replaced_by_the_next_version_and_refuses_no_connection(
    database: Database, tmp_path: Path, random: Random, newer: str
) -> None:
    """On one machine, where systemd holds the socket."""
    ledger = Ledger()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        places = {"DATABASE_URL": url_of(database), "INSTANCE_DIR": str(tmp_path / "instance")}
        old = InstalledReceiver(tmp_path, listener=listener, **places)
        places["PYTHONPATH"] = newer
        new = InstalledReceiver(tmp_path, listener=listener, **places)
        try:
            old.start()
            with (
                Load(old, ledger=ledger, random=random, clients=4, fresh=True) as load,
                Load(old, ledger=ledger, random=random, clients=4) as lasting_connections,
            ):
                load.go_on(lasting(0.5, 10))
                migrate(new, tmp_path)
                began = load.go_on(lasting(0.5, 10))
                assert ledger.results(began)["spooled"] == 0, "the old version serves on the newer schema"
                assert requests.get(f"{old.url}/readyz", timeout=20).status_code == 200
                took = seconds_to_end(old)
                new.start()
                load.until_effects_again()
                lasting_connections.until_effects_again()
            all_is_well([new], database, ledger, in_time=False)
        finally:
            old.clean_up()
            new.clean_up()

    assert took < DRAIN_SECONDS + 1
    unanswered = [entry for entry in ledger.entries if entry.status is None]
    assert [entry for entry in unanswered if entry.fresh] == []
    assert {entry.result for entry in unanswered} <= DROPPED_WHEN_IDLE


def test_two_versions_serve_side_by_side_on_one_database(
    database: Database, tmp_path: Path, random: Random, newer: str
) -> None:
    """On two machines, each with a spool of its own, of which the old one is then switched off."""
    ledger = Ledger()
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    old = Receiver(folders[0], DATABASE_URL=url_of(database))
    new = InstalledReceiver(folders[1], DATABASE_URL=url_of(database), PYTHONPATH=newer)
    try:
        old.start()
        with Load(old, ledger=ledger, random=random) as load_of_old:
            migrate(new, tmp_path)
            new.start()
            with Load(new, ledger=ledger, random=random) as load:
                began = load.go_on(lasting(1, 20))
                assert ledger.results(began)["spooled"] == 0
                load_of_old.until_effects_again()
                took = seconds_to_end(old)
                load.until_effects_again()
        all_is_well([new], database, ledger)
    finally:
        old.clean_up()
        new.clean_up()
    assert took < DRAIN_SECONDS + 1


def test_a_server_ends_within_five_seconds_whatever_its_clients_and_its_database_do(
    database: Database, postgres: PostgreSQL, tmp_path: Path
) -> None:
    """A callback that it has received is answered all the same."""
    receiver = Receiver(tmp_path, DATABASE_URL=url_of(database))
    answers: list[str] = []
    path = f"/esms/callback/{TOKEN}"
    half_a_body = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nReferenceId=half".encode()

    def send() -> None:
        answers.append(requests.get(f"{receiver.url}{path}?ReferenceId=in-flight", timeout=20).json()["result"])

    try:
        receiver.start()
        with (
            socket.create_connection(("127.0.0.1", receiver.port)) as slow,
            socket.create_connection(("127.0.0.1", receiver.port)),
            postgres.hung(),
        ):
            slow.sendall(half_a_body)
            sending = threading.Thread(target=send)
            sending.start()
            time.sleep(0.3)
            began = time.monotonic()
            receiver.signal(signal.SIGTERM)
            until(lambda: not receiver.is_running, DRAIN_SECONDS + MARGIN_SECONDS, "it ends")
            took = time.monotonic() - began
            sending.join()
        assert answers == ["spooled"]
        assert took < DRAIN_SECONDS + 1
        receiver.start()
        receiver.until_drained()
        assert stored_reports(database, "in-flight")
        assert not stored_reports(database, "half")
    finally:
        receiver.clean_up()


def test_reports_are_split_by_month_while_callbacks_come(database: Database, tmp_path: Path, random: Random) -> None:
    ledger = Ledger()
    receiver = Receiver(tmp_path, DATABASE_URL=url_of(database))
    try:
        receiver.start()
        with Load(receiver, ledger=ledger, random=random) as load:
            load.go_on(lasting(0.5, 10))
            done = receiver.run("migrate", "--partition-reports")
            assert (done.returncode, "25 partitions are new" in done.stdout) == (0, True), done.stderr
            load.until_effects_again()
        all_is_well([receiver], database, ledger)
    finally:
        receiver.clean_up()
    assert set(ledger.results()) <= {"400", "spooled", *EFFECTS}
