"""PostgreSQL as others run it: with other settings than this program needs, and through a pooler."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

import psycopg
import pytest
import requests
from commands import ON_POSTGRESQL, done, run
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import stored_call, stored_reports
from pooling import NEEDS_PGBOUNCER, pgbouncer
from running import free_port, serving
from sqlalchemy import make_url, text

from webapp import create_app
from webapp.storage.database import Database
from webapp.support.database_url import read_database_url
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciling import Command

    from webapp.esms.sandbox.service import Sandbox
    from webapp.support.settings import Settings

pytestmark = ON_POSTGRESQL

ODD = {
    "DateStyle": "German",
    "TimeZone": "Asia/Ho_Chi_Minh",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "lock_timeout": "1ms",
    "IntervalStyle": "sql_standard",
}
RELIED_ON = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    "synchronous_commit": "on",
    "lock_timeout": "30s",
}
URL = f"/esms/callback/{CALLBACK_TOKEN}"
BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
CAMPAIGN = "Tết Đà Nẵng"


def connection_to(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


@contextmanager
def of_role(url: str) -> Iterator[str]:
    """The URL for a role with odd settings."""
    role = f"odd_{uuid.uuid4().hex}"
    with connection_to(url) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'odd'".encode())
        for name, value in ODD.items():
            connection.execute(f"ALTER ROLE {role} SET {name} = '{value}'".encode())
    try:
        yield make_url(url).set(username=role, password="odd").render_as_string(hide_password=False)
    finally:
        with connection_to(url) as connection:
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())


@contextmanager
def of_database(url: str) -> Iterator[str]:
    with connection_to(url) as connection:
        for name, value in ODD.items():
            connection.execute(f"ALTER DATABASE {make_url(url).database} SET {name} = '{value}'".encode())
    yield url


@contextmanager
def of_url(url: str) -> Iterator[str]:
    options = " ".join(f"-c{name}={value}" for name, value in ODD.items())
    yield f"{url}{'&' if '?' in url else '?'}{urlencode({'options': options})}"


@contextmanager
def of_environment(url: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGOPTIONS", " ".join(f"-c{name}={value}" for name, value in ODD.items()))
        for name, setting in {
            "PGDATESTYLE": "DateStyle",
            "PGTZ": "TimeZone",
            "PGCLIENTENCODING": "client_encoding",
        }.items():
            patch.setenv(name, ODD[setting])
        yield url


@contextmanager
def of_pooler(url: str) -> Iterator[str]:
    """Through a pooler with one session, in which another client leaves its settings behind."""
    with pgbouncer(url, sessions=1) as pooled, connection_to(pooled) as another:
        for name, value in ODD.items():
            another.execute(f"SET {name} = '{value}'".encode())
        yield pooled


EVERY_WAY = [of_role, of_database, of_url, of_environment, pytest.param(of_pooler, marks=NEEDS_PGBOUNCER)]


@pytest.mark.parametrize("settings_of", EVERY_WAY)
def test_every_transaction_has_the_settings_that_the_program_relies_on(database: Database, settings_of: Any) -> None:
    with settings_of(url_of(database)) as url:
        odd = Database(url)
        for _ in range(2):
            for use, isolation in ((odd.transaction, "read committed"), (odd.snapshot, "repeatable read")):
                with use() as connection:
                    found = {name: connection.scalar(text(f"SHOW {name}")) for name in RELIED_ON}
                    assert found == RELIED_ON
                    assert connection.scalar(text("SHOW transaction_isolation")) == isolation
                    assert connection.scalar(text("SELECT 'Đà Nẵng' || E'\\\\' || '\\'")) == "Đà Nẵng\\\\"
        odd.close()


@pytest.mark.parametrize("settings_of", EVERY_WAY)
def test_callbacks_the_api_and_commands_work_whatever_the_settings(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, settings_of: Any
) -> None:
    with settings_of(url_of(database)) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        app = create_app(load_settings())
        client = app.test_client()
        try:
            registration = {"reference_id": "a", "campaign": CAMPAIGN, "placed_at": "2026-11-23T10:00:00Z"}
            assert client.post("/api/calls", json=registration, headers=BEARER).status_code == 201
            for place in range(3):
                answer = client.get(f"{URL}?ReferenceId=a&SendStatus=7&Ivr={place}")
                assert answer.json == {"result": "progressed"}
            assert client.get(f"{URL}?ReferenceId=a&SendStatus=5&CallStatus=ANSWERED&Price=450").json == {
                "result": "settled"
            }
            call = client.get("/api/calls/a", headers=BEARER).json
            assert call
            assert (call["campaign"], call["placed_at"]) == (CAMPAIGN, "2026-11-23T10:00:00.000000Z")
            assert len(call["reports"]) == 4
            assert client.get("/readyz").status_code == 200
            assert app.extensions["ingest"].drain.failed == {}
        finally:
            app.extensions["token_counter"].close()
            app.extensions["database"].close()
            app.extensions["ingest"].close()
        assert CAMPAIGN in done("export")
        done("replay", "--check")
        assert json.loads(run("status", "--json").stdout)["settled"] == 1
    assert settings.spool
    assert len(stored_reports(database, "a")) == 4
    assert stored_call(database, "a").report_count == 4


@NEEDS_PGBOUNCER
def test_through_pgbouncer_the_whole_program_works(
    esms: Sandbox, reconcile: Command, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many more clients than sessions, and more executions of each statement than the driver needs to prepare it."""
    placed = [call.reference_id.lower() for call in esms.place(1100)]
    with pgbouncer(url_of(database)) as pooled:
        monkeypatch.setenv("DATABASE_URL", pooled)
        done("register", stdin="\n".join(placed))
        with serving(tmp_path / "server.log") as url:
            assert call_back_at_once(url, placed[:400]) == [(200, {"result": "settled"})] * 400
            assert requests.get(f"{url}/readyz", timeout=20).json() == {"status": "ready"}

        result = reconcile("--older-than", "0s", "--limit", "100", "--json")
        assert (result.exit_code, json.loads(result.stdout)["checked"]) == (0, 100), result.output
        assert len(done("export").splitlines()) == 1101
        assert json.loads(done("completeness", "--json"))["calls"] == 1100
        done("replay", "--check")
        assert json.loads(run("status", "--json").stdout)["settled"] == 500


def call_back_at_once(url: str, reference_ids: list[str]) -> list[Any]:
    """What a server answers to the callbacks of twelve clients."""
    answers: list[Any] = []

    def call_back(place: int) -> None:
        with requests.Session() as session:
            for name in reference_ids[place::12]:
                answer = session.get(f"{url}{URL}?ReferenceId={name}&SendStatus=5&CallStatus=ANSWERED", timeout=20)
                answers.append((answer.status_code, answer.json()))

    threads = [threading.Thread(target=call_back, args=(place,)) for place in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_of_several_hosts_the_one_that_answers_is_used(database: Database) -> None:
    url = database.url
    place = url.query.get("host") or f"{url.host}:{url.port or 5432}"
    several = url.set(host=None, port=None, query={"host": (f"127.0.0.1:{free_port()}", str(place))})
    try:
        second = Database(read_database_url(several.render_as_string(hide_password=False).replace("+psycopg", "")))
        second.check()
        assert str(place) in unquote(second.name)
    finally:
        second.close()


@pytest.mark.parametrize("settings_of", EVERY_WAY)
def test_a_database_is_migrated_whatever_the_settings(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, settings_of: Any
) -> None:
    with settings_of(empty_database_url) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        assert "(was empty)" in done("migrate")
        assert "(was there already)" in done("migrate")


def test_a_schema_of_its_own_beside_another_application_is_enough(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connection_to(empty_database_url) as connection:
        connection.execute("CREATE TABLE calls (number integer)")
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('1975ea83b712')")
        connection.execute("CREATE SCHEMA voice")
    url = make_url(empty_database_url).update_query_dict({"options": "-csearch_path=voice"})
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    assert "(was empty)" in done("migrate")
    assert "(was there already)" in done("migrate")
    assert len(done("export").splitlines()) == 1
