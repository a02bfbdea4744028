"""The routes for monitoring: alive, ready, and the counts."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import pytest
import requests
from click.testing import CliRunner
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import change_by_hand
from outages import small_disk
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from running import serving
from sql import write
from sqlalchemy import create_engine, make_url, text
from until import until

from webapp import app as application
from webapp import create_app
from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.calls import report
from webapp.cli.commands import cli
from webapp.esms import parameters
from webapp.storage.database import Database
from webapp.storage.errors import Why
from webapp.support import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
URL = f"/esms/callback/{CALLBACK_TOKEN}"

Counts = dict[tuple[str, frozenset[tuple[str, str]]], float]


def counts(exposition: str) -> Counts:
    """Every sample of a Prometheus text, by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def count(found: Counts, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0)


@contextmanager
def app_on(settings: Settings, **changes: Any) -> Iterator[FlaskClient]:
    app = create_app(settings.model_copy(update=changes))
    yield app.test_client()
    app.extensions["token_counter"].close()
    app.extensions["database"].close()
    app.extensions["ingest"].close()


def assert_not_ready(client: FlaskClient, *words: str) -> None:
    """In words out of a closed set, whatever the database says."""
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json
    assert answer.json["status"] == "not ready"
    assert answer.json["reason"] in get_args(Why)
    for word in words:
        assert word in answer.json["reason"]
    assert client.get("/healthz").status_code == 200


# Alive and ready


def test_a_server_with_a_migrated_database_is_alive_and_ready(client: FlaskClient) -> None:
    assert (client.get("/healthz").status_code, client.get("/healthz").json) == (200, {"status": "ok"})
    assert (client.get("/readyz").status_code, client.get("/readyz").json) == (200, {"status": "ready"})
    assert client.head("/healthz").status_code == 200


def test_a_database_that_is_not_migrated_is_not_ready_until_it_is(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setenv("INSTANCE_DIR", str(tmp_path / "instance"))
    monkeypatch.setenv("CALLBACK_TOKEN", CALLBACK_TOKEN)
    monkeypatch.setenv("API_TOKEN", API_TOKEN)
    database = Database(empty_database_url)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE other (x integer)"))
    app = create_app()

    assert_not_ready(app.test_client(), "esms-calls migrate")
    database.migrate()
    assert app.test_client().get("/readyz").status_code == 200

    app.extensions["token_counter"].close()
    app.extensions["database"].close()
    app.extensions["ingest"].close()
    database.close()


def test_a_database_at_another_migration_is_not_ready(client: FlaskClient, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))

    assert_not_ready(client, "esms-calls migrate")


def test_locked_database_is_not_ready(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "API_PATIENCE", application.API_PATIENCE / 10)
    engine = create_engine(settings.database)
    with app_on(settings) as client, engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
        assert_not_ready(client, "the database is locked")
    engine.dispose()


@ON_POSTGRESQL
@pytest.mark.parametrize("table", ["calls", "status_reports"])
def test_a_database_whose_tables_are_locked_is_not_ready(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """By VACUUM FULL, by an index that is made, or by a person: callbacks are spooled then."""
    monkeypatch.setattr(application, "API_PATIENCE", application.API_PATIENCE / 30)
    engine = create_engine(settings.database)
    with app_on(settings) as client:
        with engine.begin() as connection:
            connection.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))
            assert_not_ready(client, "the database is locked")
        assert client.get("/readyz").status_code == 200
    engine.dispose()


@ON_POSTGRESQL
def test_a_database_that_refuses_what_is_stored_is_not_ready(settings: Settings, database: Database) -> None:
    """The owner of the tables may have given this server's role less than it needs."""
    role = f"reader_{make_url(settings.database).database}"
    grants = f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
    write(
        database, lambda connection: connection.exec_driver_sql(f"{grants} GRANT UPDATE ON alembic_version TO {role}")
    )
    url = make_url(settings.database).set(username=role).render_as_string(hide_password=False)
    try:
        with app_on(settings, database_url=url) as client:
            assert_not_ready(client, "the database refuses this server's user")
    finally:
        write(database, lambda connection: connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}"))


@ON_SQLITE
def test_a_sqlite_that_is_not_there_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    with app_on(settings, database_url=f"sqlite:///{tmp_path}/missing/calls.db", spool=False) as client:
        assert_not_ready(client, "esms-calls migrate")
        assert "missing" not in client.get("/readyz").text


@ON_SQLITE
def test_a_file_that_is_no_database_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database" * 1000)
    with app_on(settings, database_url=f"sqlite:///{tmp_path}/notes.txt") as client:
        assert_not_ready(client, "not a database")


@ON_POSTGRESQL
def test_a_postgresql_that_is_read_only_is_not_ready(settings: Settings, database: Database) -> None:
    name = make_url(settings.database).database
    write(
        database,
        lambda connection: connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on")),
    )
    with app_on(settings) as client:
        assert_not_ready(client, "read-only")


@ON_POSTGRESQL
def test_what_a_database_says_itself_is_for_the_log_alone(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    words = "the host db7.example.vn says so"
    function = (
        f"CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION '{words}'; END$$"
    )
    trigger = "CREATE TRIGGER complain BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION complain()"
    change_by_hand(database, function)
    change_by_hand(database, trigger)
    with app_on(settings) as client:
        assert_not_ready(client, "the database cannot be used now")
    assert words in caplog.text


@ON_SQLITE
def test_a_postgresql_that_cannot_be_reached_is_not_ready_and_nothing_of_its_url_is_shown(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql+psycopg://the-user:the-secret-password@127.0.0.1:1/the-calls"
    with app_on(settings, database_url=url) as client:
        assert_not_ready(client, "the database cannot be reached")
        for part in ("the-user", "the-secret-password", "127.0.0.1", "the-calls"):
            assert part not in client.get("/readyz").text
    assert "127.0.0.1:1/the-calls" in caplog.text
    assert "the-secret-password" not in caplog.text


# Metrics


@ON_SQLITE
def test_requests_and_callbacks_are_counted_by_their_result(client: FlaskClient) -> None:
    before = counts(client.get("/metrics").text)

    client.get(f"{URL}?ReferenceId=a&SendStatus=5")
    client.get(f"{URL}?ReferenceId=a&SendStatus=5")
    client.post(URL)
    client.put(URL)
    client.get(f"{URL}x")
    client.post(
        "/api/calls",
        json=[{"reference_id": "a"}, {"reference_id": "b"}],
        headers={"Authorization": f"Bearer {API_TOKEN}"},
    )

    after = counts(client.get("/metrics").text)
    more = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    route = "/esms/callback/<token>"
    assert count(more, "esms_callbacks_total", result="settled") == 1
    assert count(more, "esms_callbacks_total", result="duplicate") == 1
    assert count(more, "esms_callbacks_total", result="rejected") == 1
    assert count(more, "esms_callback_seconds_count") == 3
    assert count(more, "esms_http_requests_total", route=route, method="GET", status="200") == 2
    assert count(more, "esms_http_requests_total", route=route, method="POST", status="400") == 1
    assert count(more, "esms_http_requests_total", route=route, method="GET", status="404") == 1
    assert count(more, "esms_http_requests_total", route=route, method="PUT", status="405") == 1
    assert count(more, "esms_registered_calls_total") == 2


@ON_SQLITE
def test_what_alerts_watch_is_counted_from_0(client: FlaskClient) -> None:
    found = counts(client.get("/metrics").text)

    for name, labels in (
        ("esms_callbacks_total", {"result": "unavailable"}),
        ("esms_callbacks_total", {"result": "settled"}),
        ("esms_http_requests_total", {"route": "/calls/<identity:reference_id>", "method": "GET", "status": "500"}),
        ("esms_http_requests_total", {"route": "/api/calls", "method": "POST", "status": "500"}),
    ):
        assert (name, frozenset(labels.items())) in found


@ON_SQLITE
def test_callbacks_that_were_not_stored_are_counted(settings: Settings, tmp_path: Path) -> None:
    with app_on(settings, database_url=f"sqlite:///{tmp_path}/missing/calls.db", spool=False) as client:
        before = counts(client.get("/metrics").text)
        client.get(f"{URL}?ReferenceId=a")
        after = counts(client.get("/metrics").text)

    name = "esms_callbacks_total"
    assert count(after, name, result="unavailable") == count(before, name, result="unavailable") + 1


@ON_SQLITE
def test_spool_depth_is_shown_while_another_process_holds_its_locks(
    settings: Settings, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.callbacks.spool._DEPTH_LOCK_SECONDS", 0.1)
    spool = Spool(settings.instance_dir, settings.spool_limit)
    spool.append([CallbackRequest(parameters.new_id(), datetime.now(UTC), None, "GET", None, b"ReferenceId=a", b"")])
    spool.close()

    with (
        (settings.instance_dir / "spool.lock").open("ab") as lock,
        closing(sqlite3.connect(settings.instance_dir / "spool.db", isolation_level=None)) as other,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        other.execute("BEGIN EXCLUSIVE")
        metrics = counts(client.get("/metrics").text)
        status = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)

    assert count(metrics, "esms_spool_reports") == status["spool"]["reports"] == 1


@pytest.mark.parametrize("full_from", ["the start", "the first worker"])
def test_process_without_disk_space_for_counts_still_serves(full_from: str) -> None:
    program = """
import os, sys
from webapp.support import metrics
if os.fork():
    _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))
sys.stdin.readline()
for place in range(1000):
    metrics.REQUESTS.labels("/", "GET", str(place)).inc()
print(metrics.exposition().count(b"esms_http_requests_total{"))
"""
    with small_disk(1) as disk:
        if full_from == "the start":
            disk.fill()
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(disk.folder)},
        ) as process:
            if full_from != "the start":
                until(lambda: list(disk.folder.glob("*.db")), 30, "it counts")
                disk.fill()
            shown, printed = process.communicate("\n", timeout=60)

    assert (process.returncode, shown) == (0, "0\n")
    assert "is not in /metrics: [Errno 28] No space left on device" in printed


def test_files_of_a_process_killed_while_it_made_its_counts_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import os, signal
os.posix_fallocate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from webapp.support import metrics
"""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", program], check=False)

    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()), "it had begun"
    assert b"\nwaiting 1.0\n" in metrics.exposition([GaugeMetricFamily("waiting", "How much waits", 1.0)])


def label_values(text_shown: str) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text_shown):
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    return values


@ON_SQLITE
def test_requests_cannot_add_labels(app: Flask, client: FlaskClient) -> None:
    # What other tests of this process counted: the results of their callbacks are no labels of these requests.
    before = label_values(client.get("/metrics").text)
    for number in range(5):
        client.get(f"/forged-{number}")
        client.get(f"/esms/callback/forged-{number}-token")
        client.get(f"/api/calls/forged-{number}")
        client.open(f"/healthz/{number}", method=f"FORGED{number}")
        client.open(URL, method=f"FORGED{number}")
        client.get(f"{URL}?CallStatus=forged-{number}")
        client.get(f"{URL}?ReferenceId=forged-{number}&CallStatus=forged-{number}&SendStatus={number}")

    text_shown = client.get("/metrics").text
    values = label_values(text_shown)
    assert values["route"] <= {found.rule for found in app.url_map.iter_rules()} | {"/esms/callback/<token>", "unknown"}
    assert values["method"] <= {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
    assert values["result"] - before.get("result", set()) <= {*report.EFFECTS, "rejected", "unavailable"}
    assert {"unknown", "other", "progressed"} <= values["route"] | values["method"] | values["result"]
    assert "forged" not in text_shown.lower()
    assert CALLBACK_TOKEN not in text_shown


@ON_SQLITE
def test_metrics_are_right_across_two_worker_processes(settings: Settings, tmp_path: Path) -> None:
    assert settings.is_embedded
    with serving(tmp_path / "log", "--workers", "2") as server:

        def ask(number: int) -> int:
            if number % 3 == 0:
                return requests.get(f"{server}/nowhere", timeout=30).status_code
            return requests.get(f"{server}{URL}?ReferenceId=call-{number}&SendStatus=5", timeout=30).status_code

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(150)))
        # Each is answered by one of the two; connections are not kept.
        seen = [counts(requests.get(f"{server}/metrics", timeout=30).text) for _ in range(12)]

    assert (answers.count(200), answers.count(404)) == (100, 50)
    route = "/esms/callback/<token>"
    for found in seen:
        assert count(found, "esms_callbacks_total", result="settled") == 100
        assert count(found, "esms_callback_seconds_count") == 100
        assert count(found, "esms_callback_seconds_bucket", le="+Inf") == 100
        assert count(found, "esms_http_requests_total", route=route, method="GET", status="200") == 100
        assert count(found, "esms_http_requests_total", route="unknown", method="GET", status="404") == 50
    scraped = [count(found, "esms_http_requests_total", route="/metrics", method="GET", status="200") for found in seen]
    assert scraped == list(range(12))
