"""PHONE_STORAGE: what is stored of the numbers called, wherever they come in, and how they are found again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from commands import ON_SQLITE, done, run
from constants import API_TOKEN, CALLBACK_TOKEN
from makers import NOW, answer, at, callback, lookup
from pages import sign_in
from sqlalchemy import select

from webapp import create_app
from webapp.calls.phone import is_hash
from webapp.storage.models import Base, calls, rejected_callbacks, status_reports
from webapp.storage.writer import Writer
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.database import Database
    from webapp.support.settings import Settings

NUMBER = "901888484"
"""What every spelling below has in common, once separators are gone."""
SPELLINGS = ("0901888484", "84901888484", "+84901888484", "0901 888 484", "0901.888.484", "(+84) 901-888-484")
API = {"Authorization": f"Bearer {API_TOKEN}"}
URL = f"/esms/callback/{CALLBACK_TOKEN}"


def everything(database: Database) -> str:
    """All that the tables hold, without what may stand between the digits of a number."""
    with database.snapshot(limited=False) as connection:
        text = str([connection.execute(table.select()).all() for table in Base.metadata.tables.values()])
    return "".join(letter for letter in text.replace("%20", "").replace("%2E", "") if letter not in " .-()+")


def close(app: Flask) -> None:
    app.extensions["token_counter"].close()
    app.extensions["database"].close()
    app.extensions["ingest"].close()


@pytest.fixture
def hiding(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The application with PHONE_STORAGE as the test's parameter says, else hashed."""
    assert settings.phone_storage == "plain", "the default"
    monkeypatch.setenv("PHONE_STORAGE", getattr(request, "param", "hashed"))
    app = create_app(load_settings())
    yield app
    close(app)


HIDDEN = pytest.mark.parametrize("hiding", ["hashed", "none"], indirect=True)


def send_numbers_everywhere(client: FlaskClient) -> None:
    """By every way in which a number can come."""
    query = "SMSID=a{}&SendStatus=5&SendSuccess=1&TypeId=8&phonenumber={}&error_info=to+{}+failed&my=x{}"
    for place, spelling in enumerate(SPELLINGS):
        written = spelling.replace("+", "%2B").replace(" ", "+")
        assert client.get(f"{URL}?{query.format(place, written, written, place)}").status_code == 200
    assert client.post(URL, data={"SMSID": "f", "SendStatus": "5", "PhoneNumber": "+84 901 888 484"}).status_code == 200
    body = {"SMSID": "j", "SendStatus": 5, "phonenumber": 84901888484, "who": {"Phone": ["0901888484", 901]}}
    assert client.post(URL, json=body).status_code == 200
    assert client.get(f"{URL}?ReferenceId=u&SendStatus=7&phone=0901888484&0901888484").status_code == 200
    # Rejected ones: without an id, broken JSON, other channels.
    assert client.get(f"{URL}?phonenumber=0901888484&SendStatus=5").status_code == 400
    assert client.post(URL, data=b'{"phonenumber": "0901888484", ').status_code == 400
    assert client.get(f"{URL}?SMSID=z&TypeId=2&phonenumber=0901888484").status_code == 200
    items = [{"reference_id": "r", "phone": "0901 888 484"}, {"reference_id": "a0", "phone": "0901888484"}]
    assert client.post("/api/calls", json=items, headers=API).status_code == 201
    done("register", stdin="reference_id,phone\nc,0901888484\n")
    writer = Writer(client.application.extensions["database"])
    said = {
        "send_status": 7,
        "phone": "0901888484",
        "payload": json.dumps({"ReferenceId": "l", "phonenumber": "0901888484"}),
    }
    writer.conclude([answer(lookup("l", 1, **said))], at(2), give_up=at(3) - at(0))


def test_plain_numbers_are_stored_as_they_come(client: FlaskClient, database: Database) -> None:
    send_numbers_everywhere(client)
    assert everything(database).count(NUMBER) > 20


@HIDDEN
def test_no_number_is_stored_wherever_it_comes_in(hiding: Flask, database: Database) -> None:
    send_numbers_everywhere(hiding.test_client())

    assert NUMBER not in everything(database)
    with database.snapshot() as connection:
        phones = set(connection.scalars(select(calls.c.phone).where(calls.c.reference_id != "u")))
        assert set(connection.scalars(select(calls.c.phone_e164))) == {None}
    if hiding.extensions["database"].phones.mode == "none":
        assert phones == {None}
    else:
        (one,) = phones
        assert one
        assert is_hash(one)


@HIDDEN
@ON_SQLITE
def test_json_nested_deeply_is_kept_without_the_number(hiding: Flask, database: Database) -> None:
    for depth in (90, 200, 400, 5000):
        body = '{"ReferenceId": "deep", "x": ' + '{"a":' * depth + '"0901888484"' + "}" * depth + "}"
        answer = hiding.test_client().post(URL, data=body, content_type="application/json")
        assert answer.status_code == (200 if depth == 90 else 400)

    with database.snapshot() as connection:
        reasons = list(connection.scalars(select(rejected_callbacks.c.reason)))
    assert reasons == ["body: is nested too deeply"] * 3
    assert NUMBER not in everything(database)


@HIDDEN
def test_folding_again_and_reading_rejected_ones_again_changes_nothing(hiding: Flask, database: Database) -> None:
    send_numbers_everywhere(hiding.test_client())

    assert done("replay", "--check") == ""
    done("replay", "--rejected")
    done("replay", "--unread")
    assert done("replay", "--check") == ""
    assert NUMBER not in everything(database)


def test_a_hashed_number_is_found_however_it_is_written(hiding: Flask) -> None:
    client = hiding.test_client()
    send_numbers_everywhere(client)
    client.get(f"{URL}?SMSID=stranger&SendStatus=5&phonenumber=0901888485")

    for spelling in SPELLINGS:
        answer = client.get("/api/calls", query_string={"phone": spelling}, headers=API)
        found = {call["reference_id"] for call in (answer.json or {})["calls"]}
        assert found == {*(f"a{place}" for place in range(len(SPELLINGS))), "f", "j", "r", "c", "l"}
    sign_in(client)
    page = client.get("/calls", query_string={"q": "0901 888 484"}).text
    assert "a3" in page
    assert "stranger" not in page
    listed = client.get("/calls.csv", query_string={"phone": "+84901888484"}).text
    assert listed.count("\n") > 10


@pytest.mark.parametrize("mode", ["hashed", "none"])
def test_what_was_stored_plain_is_hidden_by_a_command_and_found_as_before(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    send_numbers_everywhere(client)
    assert run("hide-phones").exit_code == 2
    monkeypatch.setenv("PHONE_STORAGE", mode)
    assert run("hide-phones", "--check").exit_code == 1

    printed = done("hide-phones")

    assert printed.startswith("hid the numbers in 11 calls, 10 reports, 3 rejected callbacks")
    assert NUMBER not in everything(database)
    assert done("hide-phones", "--check").startswith("0 calls, 0 reports, 0 rejected")
    assert done("replay", "--check") == ""
    app = create_app(load_settings())
    found = app.test_client().get("/api/calls?phone=0901888484", headers=API).json or {}
    close(app)
    assert len(found["calls"]) == (11 if mode == "hashed" else 0)


def test_rejected_callbacks_that_are_the_same_once_hidden_are_counted_as_one(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spelling in ("0901888484", "84901888484", "0901888484"):
        client.get(f"{URL}?phonenumber={spelling}")
    monkeypatch.setenv("PHONE_STORAGE", "hashed")

    done("hide-phones")

    with database.snapshot() as connection:
        assert connection.scalars(select(rejected_callbacks.c.count)).all() == [3]


def spool_one(app: Flask, name: str) -> bytes:
    """Send a callback while the database is away; all that the instance folder holds then."""
    ingest = app.extensions["ingest"]
    ingest.drain.close()  # Or it would find the database there, and drain at once.
    ingest._breaker.open("as if the database were away")  # noqa: SLF001
    answer = app.test_client().get(f"{URL}?SMSID={name}&SendStatus=5&phonenumber=0901888484")
    assert answer.json == {"result": "spooled"}
    return b"".join(path.read_bytes() for path in load_settings().instance_dir.glob("*") if path.is_file())


@ON_SQLITE
@HIDDEN
def test_the_spool_holds_no_number(hiding: Flask) -> None:
    spooled = spool_one(hiding, "spooled-one")
    assert b"SMSID=spooled-one" in spooled
    assert NUMBER.encode() not in spooled


@ON_SQLITE
@pytest.mark.parametrize("mode", ["hashed", "none"])
def test_what_was_spooled_plain_is_hidden_as_it_is_stored(
    app: Flask, database: Database, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    assert NUMBER.encode() in spool_one(app, "spooled-one")
    monkeypatch.setenv("PHONE_STORAGE", mode)

    done("spool", "drain")

    assert "spooledone" in everything(database)
    assert NUMBER not in everything(database)


@ON_SQLITE
def test_a_key_is_made_once_for_its_user_alone_and_another_one_is_refused(
    hiding: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hiding.extensions["database"].phones.key
    key = tmp_path / "instance" / "phone_hash_key"
    assert key.stat().st_mode & 0o777 == 0o600
    first = key.read_text()
    done("register", stdin="reference_id,phone\nc,0901888484\n")
    assert key.read_text() == first

    monkeypatch.setenv("PHONE_HASH_KEY", "another-key-of-sixteen")
    result = run("register", stdin="reference_id,phone\nd,0901888484\n")

    assert result.exit_code == 2
    assert "PHONE_HASH_KEY is not the key" in result.stderr
    assert "another-key" not in result.output


def test_reports_and_registrations_agree_on_a_hashed_number(hiding: Flask, database: Database) -> None:
    writer = Writer(hiding.extensions["database"])
    writer.record([callback("a", 1, send_status=7, phone="+84901888484")], NOW)
    with database.snapshot() as connection:
        (stored,) = connection.scalars(select(status_reports.c.phone))
        assert connection.scalars(select(calls.c.phone)).all() == [stored]
    done("register", stdin="reference_id,phone\na,0901888484\n")
    with database.snapshot() as connection:
        assert connection.scalars(select(calls.c.phone)).all() == [stored]
