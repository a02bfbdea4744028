"""READ_DATABASE_URL: who reads it, their answers while it lags or is away, and that callbacks do not notice."""

from __future__ import annotations

import json
import shutil
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from commands import ON_POSTGRESQL, ON_SQLITE, done, run
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import NOW, callback
from running import free_port
from servers import Cluster, fresh_database, open_folder
from sqlalchemy import create_engine, text

from webapp import create_app
from webapp.cli import serve
from webapp.storage import figures
from webapp.storage.database import Database
from webapp.storage.writer import Writer
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask.testing import FlaskClient
    from servers import Shared

BEARER = {"Authorization": f"Bearer {API_TOKEN}"}


class Pair:
    """A PostgreSQL and one that follows it by streaming replication."""

    def __init__(self, primary: Cluster, replica: Cluster) -> None:
        self.url, self.replica_url = primary.url, replica.url
        self.primary, self._replica = create_engine(primary.url), create_engine(replica.url)

    def replica_does(self, what: str) -> None:
        with self._replica.connect() as connection:
            connection.execute(text(f"SELECT {what}"))

    def wait_for_replica(self) -> None:
        with self.primary.connect() as primary, self._replica.connect() as replica:
            written = primary.scalar(text("SELECT pg_current_wal_lsn()::text"))
            behind = text("SELECT pg_last_wal_replay_lsn() < CAST(:written AS pg_lsn)")
            for _ in range(1000):
                if not replica.scalar(behind, {"written": written}):
                    return
                time.sleep(0.01)
        raise AssertionError("the replica does not follow")

    def close(self) -> None:
        self.primary.dispose()
        self._replica.dispose()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with open_folder() as folder:
        first, second = folder / "first", folder / "second"
        for one in (first, second):
            one.mkdir()
            one.chmod(0o755)
        primary, replica = Cluster(first), Cluster(second)
        primary.make("fsync = off")
        primary.start()
        replica.make_replica_of(primary)
        replica.start()
        database = Database(primary.url)
        database.migrate()
        database.close()
        made = Pair(primary, replica)
        made.wait_for_replica()
        yield made
        made.close()
        replica.stop()
        primary.stop()


@pytest.fixture
def replicated(pair: Pair, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[FlaskClient]:
    """A client of the application on that pair, which has no calls yet."""
    with pair.primary.begin() as connection:
        connection.execute(text("TRUNCATE calls, status_reports, rollup_marks, call_rollups"))
    pair.wait_for_replica()
    monkeypatch.setenv("DATABASE_URL", pair.url)
    monkeypatch.setenv("READ_DATABASE_URL", pair.replica_url)
    assert settings
    yield from client_of(load_settings())
    pair.replica_does("pg_wal_replay_resume()")


def client_of(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions["token_counter"].close()
    app.extensions["ingest"].close()
    for name in ("database", "reading"):
        app.extensions[name].close()


def settle(client: FlaskClient, name: str) -> None:
    answer = client.get(f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId={name}&CallStatus=ANSWERED&SendStatus=5")
    assert (answer.status_code, answer.json) == (200, {"result": "settled"})


def ids(client: FlaskClient) -> list[str]:
    answer = client.get("/api/calls", headers=BEARER)
    assert answer.status_code == 200
    return [call["reference_id"] for call in (answer.json or {})["calls"]]


@ON_SQLITE
def test_a_real_replica_is_read_by_api_and_commands_and_says_how_old_it_is(replicated: FlaskClient, pair: Pair) -> None:
    settle(replicated, "early")
    pair.wait_for_replica()
    pair.replica_does("pg_wal_replay_pause()")
    settle(replicated, "late")
    replicated.post("/api/calls", headers=BEARER, json={"reference_id": "later"})

    lagging = ids(replicated), replicated.get("/api/calls/late", headers=BEARER).status_code
    exported = [json.loads(line)["reference_id"] for line in done("export", "--format", "jsonl").splitlines()]
    shown = run("show", "late").exit_code
    with_replica, without = Database(pair.replica_url), Database(pair.url)
    with with_replica.snapshot() as connection:
        old = figures.as_of(connection)
    with without.snapshot() as connection:
        last = connection.scalar(text("SELECT max(updated_at) FROM calls"))
    reported = json.loads(done("report", "--json"))["as_of"]
    counted = json.loads(run("status", "--json").stdout)["calls"]
    for database in (with_replica, without):
        database.close()
    pair.replica_does("pg_wal_replay_resume()")
    pair.wait_for_replica()

    assert lagging == (["early"], 404)
    assert (exported, shown, counted) == (["early"], 1, 3)
    assert old.at < last
    assert reported == f"{old.at:%Y-%m-%dT%H:%M:%S.%fZ}"
    assert sorted(ids(replicated)) == ["early", "late", "later"]
    assert done("show", "late").startswith("late")


def test_without_marks_a_replica_is_as_old_as_its_last_transaction(pair: Pair) -> None:
    with pair.primary.begin() as connection:
        connection.execute(text("TRUNCATE rollup_marks"))
        before = connection.scalar(text("SELECT clock_timestamp()"))
    pair.wait_for_replica()
    time.sleep(0.05)

    replica, primary = Database(pair.replica_url), Database(pair.url)
    with replica.snapshot() as of_replica, primary.snapshot() as of_primary:
        old, new = figures.as_of(of_replica), figures.as_of(of_primary)
    replica.close()
    primary.close()

    assert before <= old.at < new.at
    assert new.at - old.at > timedelta(seconds=0.04)


@pytest.fixture
def second(empty_database_url: str, shared: Shared, tmp_path: Path) -> Iterator[str]:
    """URL of another migrated database of the same kind, with one call."""
    if empty_database_url.startswith("sqlite"):
        file = tmp_path / "second.db"
        shutil.copyfile(shared.migrated_file, file)
        yield filled(f"sqlite:///{file}")
        return
    with shared.migrated_database() as url:
        yield filled(url)


def filled(url: str) -> str:
    database = Database(url)
    Writer(database).record([callback("of-the-second", call_status="ANSWERED")], NOW)
    database.close()
    return url


def test_reads_go_to_the_second_database_and_writes_to_the_first(
    settings: Settings, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READ_DATABASE_URL", second)
    assert settings
    for client in client_of(load_settings()):
        settle(client, "of-the-first")
        read = ids(client)
        registered = client.post("/api/calls", headers=BEARER, json={"reference_id": "of-the-first"})
    exported = done("export", "--columns", "reference_id").split()
    monkeypatch.delenv("READ_DATABASE_URL")

    assert read == ["of-the-second"]
    assert (registered.json or {})["registered"] == 1
    assert exported == ["reference_id", "of-the-second"]
    assert done("export", "--columns", "reference_id").split() == ["reference_id", "of-the-first"]


@ON_POSTGRESQL
def test_while_the_replica_is_away_readers_are_answered_503_and_callbacks_200(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READ_DATABASE_URL", f"postgresql://reader:the-password@127.0.0.1:{free_port()}/calls")
    assert settings
    for client in client_of(load_settings()):
        settle(client, "a")
        answers = [client.get(path, headers=BEARER) for path in ("/api/calls", "/api/calls/a")]
        ready = client.get("/readyz").status_code
    commands = [run(*command) for command in (("export",), ("report",), ("show", "a"))]

    assert [(answer.status_code, "Retry-After" in answer.headers) for answer in answers] == [(503, True)] * 2
    assert ready == 200
    assert [result.exit_code for result in commands] == [4, 4, 4]
    for result in commands:
        assert "correct host and port in READ_DATABASE_URL." in result.stderr
        assert "the-password" not in result.output
    assert run("status").exit_code in {0, 1}


@ON_POSTGRESQL
def test_a_read_database_that_is_no_replica_is_named_at_the_start_and_by_commands(
    settings: Settings, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings
    monkeypatch.setattr(serve, "_become_gunicorn", lambda *_: None)
    with fresh_database(shared.postgresql) as empty:
        monkeypatch.setenv("READ_DATABASE_URL", empty)
        started = run("serve", "--bind", f"127.0.0.1:{free_port()}")
        exported = run("export")
        for client in client_of(load_settings()):
            settle(client, "a")
            answer = client.get("/api/calls", headers=BEARER)

    assert started.exit_code == 0
    assert "CallbackUrl to give to eSMS" in started.stdout
    words = "READ_DATABASE_URL must name a replica of the database of DATABASE_URL, up to date."
    assert words in started.stderr
    assert "The server starts nevertheless: callbacks are stored" in started.stderr
    assert (exported.exit_code, exported.stdout) == (1, "")
    assert words in exported.stderr
    assert answer.status_code == 503


@ON_SQLITE
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://host/calls", "READ_DATABASE_URL must be a URL such as postgresql://"),
        ("postgresql://user:se@cret@host/calls", "READ_DATABASE_URL cannot be read"),
        ("postgresql://host/calls?sslmode=maybe", "READ_DATABASE_URL has the option sslmode"),
    ],
)
def test_a_wrong_read_database_stops_every_command_at_once(
    settings: Settings, url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings
    monkeypatch.setattr(serve, "_become_gunicorn", lambda *_: None)
    monkeypatch.setenv("READ_DATABASE_URL", url)

    results = [run("export"), run("serve"), run("status")]

    assert [result.exit_code for result in results] == [2, 2, 2]
    assert all(words in result.stderr and "cret" not in result.stderr for result in results)
