"""The CallbackUrl: which requests are stored, what is answered, what the rows are then, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import socket
import sqlite3
import time
from base64 import b64encode, encodebytes
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

import pytest
from constants import API_TOKEN, CALLBACK_TOKEN, sized
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from running import serving as running
from sqlalchemy import create_engine, func, make_url, select, text
from sqlalchemy.exc import IntegrityError
from until import until

from webapp import create_app, storage
from webapp.esms import callback as esms_callback
from webapp.storage.claims import Due
from webapp.storage.database import Database
from webapp.storage.models import calls, rejected_callbacks, status_reports
from webapp.support.log_json import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient
    from sqlalchemy import Table
    from werkzeug.test import TestResponse

    from webapp.storage.reader import Reader
    from webapp.support.settings import Settings

URL = f"/esms/callback/{CALLBACK_TOKEN}"
DOCUMENTED = {
    "ReferenceId": "066107ee-6ec4-4283-b595-aa74977c65c5",
    "CallDuration": "13",
    "CallStatus": "ANSWERED",
    "Ivr": "007",
    "Price": "450.0000",
    "SentResult": "1",
    "CID": "02871002454",
    "SendStatus": "5",
}
VOICE_OTP = (
    "SMSID=dc712784-9c5f-4c69-b9a8-ea69d56adc9a87&SendFailed=0&SendStatus=5&SendSuccess=1&TotalPrice=470.0000"
    "&TotalReceiver=1&TotalSent=1&RequestId=&TypeId=8&telcoid=1&phonenumber=0901888484"
)
ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
TABLES = ("calls", "status_reports", "rejected_callbacks")
QUICK_SECONDS = 5


def rows(database: Database, table: Table) -> list[dict[str, Any]]:
    with database.snapshot(limited=False) as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def nothing_is_stored(database: Database) -> bool:
    return not any(rows(database, table) for table in (calls, status_reports, rejected_callbacks))


def sent(kept: dict[str, Any]) -> tuple[bytes, bytes]:
    """Query and body of a rejected callback, also of one that was cut."""
    payload = json.loads(kept["payload"])
    return payload["query"].encode("utf-8", "surrogateescape"), payload["body"].encode("utf-8", "surrogateescape")


@contextmanager
def serving(settings: Settings, **changes: Any) -> Iterator[FlaskClient]:
    """A client of an application with other settings."""
    app = create_app(settings.model_copy(update=changes))
    yield app.test_client()
    app.extensions["token_counter"].close()
    app.extensions["database"].close()
    app.extensions["ingest"].close()


def announced_as(length: int | None) -> dict[str, Any]:
    """What a server says about a body: its length, or that it comes in chunks."""
    return {"wsgi.input_terminated": True} if length is None else {"CONTENT_LENGTH": str(length)}


def post(client: FlaskClient, body: io.IOBase, length: int | None) -> TestResponse:
    """Post a body as a server passes it on."""
    return client.post(URL, environ_overrides={"wsgi.input": body, **announced_as(length)})


# What is taken


@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param({"method": "GET", "query_string": DOCUMENTED}, id="GET"),
        pytest.param({"method": "POST", "query_string": DOCUMENTED}, id="POST with a query string"),
        pytest.param({"method": "POST", "data": DOCUMENTED}, id="form"),
        pytest.param({"method": "POST", "json": DOCUMENTED}, id="JSON"),
        pytest.param(
            {"method": "POST", "json": DOCUMENTED | {"CallDuration": 13, "SentResult": 1, "SendStatus": 5}},
            id="JSON with numbers",
        ),
        pytest.param({"method": "POST", "data": json.dumps(DOCUMENTED), "content_type": "text/plain"}, id="bare JSON"),
        pytest.param({"method": "POST", "data": DOCUMENTED, "content_type": "multipart/form-data"}, id="multipart"),
        pytest.param({"method": "POST", "data": urlencode(DOCUMENTED), "content_type": ""}, id="form without a type"),
        pytest.param({"method": "GET", "data": DOCUMENTED}, id="GET with a form"),
    ],
)
def test_report_is_stored_as_eSMS_said_it_in_every_form(  # noqa: N802
    client: FlaskClient, database: Database, reader: Reader, request_of: dict[str, Any]
) -> None:
    answer = client.open(URL, **request_of)

    assert (answer.status_code, answer.json) == (200, {"result": "settled"})
    call = reader.call(DOCUMENTED["ReferenceId"])
    assert call is not None
    expected = {
        "call_status": "ANSWERED",
        "call_duration": 13,
        "ivr": "007",
        "price": "450.0000",
        "sent_result": 1,
        "cid": "02871002454",
        "send_status": 5,
    }
    assert {name: call[name] for name in expected} == expected
    (report,) = call["reports"]
    assert {name: report[name] for name in expected} == expected
    assert (report["source"], report["effect"], report["unread"]) == ("callback", "settled", None)
    assert (report["remote_addr"], report["received_at"]) == ("127.0.0.1", call["settled_at"])
    assert {name: str(value) for name, value in report["payload"].items()} == DOCUMENTED
    assert len(rows(database, status_reports)) == len(rows(database, calls)) == 1
    assert rows(database, rejected_callbacks) == []


@pytest.mark.parametrize(
    ("before", "last", "effect"),
    [
        ([], "SendStatus=5&CallStatus=ANSWERED", "settled"),
        ([], "SendStatus=4", "settled"),
        ([], "SendStatus=2", "progressed"),
        (["SendStatus=2"], "SendStatus=7", "progressed"),
        (["SendStatus=2"], "SendStatus=2", "duplicate"),
        (["SendStatus=7"], "SendStatus=5&CallStatus=ANSWERED", "settled"),
        (["SendStatus=5&CallStatus=ANSWERED"], "SendStatus=5&CallStatus=ANSWERED", "duplicate"),
        (["SendStatus=5&CallStatus=ANSWERED"], "SendStatus=7&CallStatus=ANSWERED", "stale"),
        (["SendStatus=5&CallStatus=ANSWERED"], "SendStatus=5&Price=450.0000", "enriched"),
        (["SendStatus=5&CallStatus=ANSWERED"], "SendStatus=5&CallStatus=NO ANSWER", "conflict"),
    ],
)
def test_the_answer_says_what_the_report_did(
    client: FlaskClient, reader: Reader, before: list[str], last: str, effect: str
) -> None:
    for query in before:
        assert client.get(f"{URL}?ReferenceId=a&{query}").status_code == 200

    answer = client.get(f"{URL}?ReferenceId=a&{last}")

    assert (answer.status_code, answer.json) == (200, {"result": effect})
    call = reader.call("a")
    assert call is not None
    assert call["report_count"] == len(call["reports"]) == len(before) + 1
    assert call["reports"][-1]["effect"] == effect


def test_body_counts_before_the_query_which_fills_its_blanks(client: FlaskClient, reader: Reader) -> None:
    template = f"{URL}?ReferenceId=&CallDuration=7&CallStatus=NO ANSWER&Ivr=&Price=&SentResult=&CID=&SendStatus="
    body = {"ReferenceId": " A ", "CallStatus": "ANSWERED", "CallDuration": " ", "SendStatus": "5"}

    assert client.post(template, data=body).json == {"result": "settled"}

    call = reader.call("a")
    assert call is not None
    assert (call["call_status"], call["call_duration"], call["send_status"]) == ("ANSWERED", 7, 5)
    assert call["reports"][0]["payload"]["CallStatus"] == ["ANSWERED", "NO ANSWER"]


def test_a_voice_otp_callback_is_stored_under_the_same_names(client: FlaskClient, reader: Reader) -> None:
    assert client.get(f"{URL}?{VOICE_OTP}").json == {"result": "settled"}

    call = reader.call("dc712784-9c5f-4c69-b9a8-ea69d56adc9a87")
    assert call is not None
    assert (call["price"], call["sent_result"], call["phone"], call["request_id"]) == (
        "470.0000",
        1,
        "0901888484",
        None,
    )
    assert call["reports"][0]["payload"]["telcoid"] == "1"


def test_a_value_that_cannot_be_read_costs_only_itself(client: FlaskClient, database: Database) -> None:
    answer = client.get(f"{URL}?ReferenceId=a&SendStatus=5&CallStatus=ANSWERED&CallDuration=-3&Price=1e5&Ivr=%00")

    assert (answer.status_code, answer.json) == (200, {"result": "settled"})
    (report,) = rows(database, status_reports)
    assert report["unread"] == "CallDuration,Ivr,Price"
    assert (report["call_duration"], report["price"], report["ivr"]) == (None, None, None)
    assert json.loads(report["payload"])["Ivr"] == "\0"


def test_bytes_that_are_no_text_are_stored(client: FlaskClient, database: Database) -> None:
    answer = client.post(f"{URL}?ReferenceId=a", data=b"Note=\xff\x00%00%ff", content_type="text/x")

    assert answer.status_code == 200
    (report,) = rows(database, status_reports)
    assert json.loads(report["payload"])["Note"].encode("utf-8", "surrogateescape") == b"\xff\x00\x00\xff"


def test_prices_are_stored_exactly(client: FlaskClient, database: Database) -> None:
    client.get(f"{URL}?ReferenceId=a&SendStatus=5&Price=9999999999.9999")

    assert rows(database, calls)[0]["price"] == Decimal("9999999999.9999")


def test_a_body_of_exactly_64_kib_is_stored(client: FlaskClient, database: Database) -> None:
    body = b"ReferenceId=a&x=".ljust(esms_callback.BODY_LIMIT, b"x")

    for length in (len(body), None):
        assert post(client, io.BytesIO(body), length).status_code == 200
    assert len(rows(database, status_reports)) == 2


# What is not readable


@ON_SQLITE
@pytest.mark.parametrize(
    ("query", "body", "kind", "reason"),
    [
        ("CallStatus=ANSWERED", b"", None, "ReferenceId: is missing"),
        ("", b"", None, "ReferenceId: is missing"),
        ("ReferenceId=%20&SMSID=", b"", None, "ReferenceId: is missing"),
        ("ReferenceId=a%20b", b"", None, "ReferenceId: must have 1 to 128 visible ASCII characters"),
        ("SMSID=" + "a" * 129, b"", None, "SMSID: must have 1 to 128 visible ASCII characters"),
        ("ReferenceId=a", b"ReferenceId=b", None, "ReferenceId: is given twice, with different values"),
        ("SMSID=a&SMSID=b", b"", None, "SMSID: is given twice, with different values"),
        ("ReferenceId=a", b'{"CallStatus": ', "application/json", "body: is broken JSON"),
        ("ReferenceId=a", b'["ReferenceId"]', "application/json", "body: must be one JSON object"),
        ("", b'{"ReferenceId": true}', "application/json", "ReferenceId: must have 1 to 128 visible ASCII characters"),
        ("ReferenceId=a", b'{"x":' + b"[" * 50_000, "application/json", "body: is nested too deeply"),
        ("ReferenceId=a", b"--no\r\n", "multipart/form-data; boundary=b", "body: is a broken multipart form"),
        ("ReferenceId=a", b"x" * (esms_callback.BODY_LIMIT + 1), "text/plain", "body: is over 64 KiB"),
    ],
)
def test_an_unreadable_callback_gets_a_400_that_names_the_parameter_and_is_kept(
    client: FlaskClient, database: Database, query: str, body: bytes, kind: str | None, reason: str
) -> None:
    answer = client.post(f"{URL}?{query}", data=body, content_type=kind)

    assert (answer.status_code, answer.json) == (400, {"error": reason})
    (kept,) = rows(database, rejected_callbacks)
    assert (kept["reason"], kept["method"], kept["content_type"]) == (reason, "POST", kind)
    assert (kept["remote_addr"], kept["count"], kept["replayed_at"]) == ("127.0.0.1", 1, None)
    assert kept["payload_sha256"] == hashlib.sha256(kept["payload"].encode()).hexdigest()
    assert sent(kept) == (query.encode(), body[: esms_callback.BODY_LIMIT - len(query)])
    assert rows(database, calls) == rows(database, status_reports) == []


def test_the_same_unreadable_callback_again_only_counts(client: FlaskClient, database: Database) -> None:
    for _ in range(3):
        client.get(f"{URL}?CallStatus=ANSWERED")
    client.post(f"{URL}?CallStatus=ANSWERED")
    client.get(f"{URL}?CallStatus=answered")

    kept = rows(database, rejected_callbacks)
    assert sorted((row["method"], row["count"]) for row in kept) == [("GET", 1), ("GET", 3), ("POST", 1)]
    (repeated,) = [row for row in kept if row["count"] == 3]
    assert repeated["first_at"] < repeated["last_at"]


class Endless(io.RawIOBase):
    """A body that never ends, and counts what was read of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = b"x" * len(buffer)
        self.taken += len(buffer)
        return len(buffer)


@pytest.mark.parametrize("length", [100_000_000, None], ids=["declared", "chunked"])
def test_a_body_over_the_limit_is_rejected_before_it_is_read_whole(
    client: FlaskClient, database: Database, length: int | None
) -> None:
    body = Endless()

    answer = post(client, body, length)

    assert (answer.status_code, answer.json) == (400, {"error": "body: is over 64 KiB"})
    assert body.taken == esms_callback.BODY_LIMIT + 1
    (kept,) = rows(database, rejected_callbacks)
    assert sent(kept) == (b"", b"x" * esms_callback.BODY_LIMIT)


class Broken(io.RawIOBase):
    """A body whose reading fails after some bytes, as gunicorn's does where chunks are broken."""

    parts = (b"ReferenceId=a&SendStatus=5&CallDuration=1", None)
    place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.parts[self.place]
        if part is None:
            raise OSError("Invalid chunk size")
        self.place += 1
        buffer[: len(part)] = part
        return len(part)


def test_a_body_that_was_cut_is_rejected(client: FlaskClient, database: Database) -> None:
    """Its last value would be another than eSMS said: 1 second instead of 125."""
    cut = b"ReferenceId=a&SendStatus=5&CallDuration=1"

    answers = [
        post(client, io.BytesIO(cut), len(cut) + 2),
        post(client, io.BytesIO(cut), 99_999_999),
        post(client, Broken(), None),
    ]

    for answer in answers:
        assert (answer.status_code, answer.json) == (400, {"error": "body: ended before it was whole"})
    assert rows(database, status_reports) == []
    kept = rows(database, rejected_callbacks)
    assert sum(row["count"] for row in kept) == 3
    assert {sent(row) for row in kept} == {(b"", cut)}


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("a bug"), IntegrityError("INSERT", {}, Exception("NOT NULL"))],
    ids=["bug", "refused value"],
)
def test_a_callback_that_a_bug_keeps_from_being_stored_is_rejected_and_kept(
    client: FlaskClient,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(storage.writer, "record", fail)

    answer = client.get(f"{URL}?ReferenceId=a&SendStatus=5")

    assert answer.status_code == 400
    (kept,) = rows(database, rejected_callbacks)
    assert sent(kept) == (b"ReferenceId=a&SendStatus=5", b"")


@ON_SQLITE
def test_what_the_batch_writer_logs_of_a_callback_belongs_to_its_request(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(storage.writer, "record", fail)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    client.get(f"{URL}?ReferenceId=a&SendStatus=5")

    bug, *others = (json.loads(line) for line in stream.getvalue().splitlines())
    assert bug["exception"].endswith("RuntimeError: a bug")
    assert [one["logger"] for one in others] == ["webapp.callbacks.views"]
    assert {(one["request_id"], one.get("reference_id")) for one in (bug, *others)} == {(bug["request_id"], "a")}


# The token, and methods


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_slash_behind_the_token_changes_nothing(client: FlaskClient, database: Database, method: str) -> None:
    answer = client.open(f"{URL}/?ReferenceId=a&CallStatus=BUSY", method=method)

    assert (answer.status_code, answer.json) == (200, {"result": "settled"})
    assert client.head(f"{URL}/").status_code == 405
    assert client.get("/esms/callback/wrong-token-of-any-kind/").status_code == 404
    assert len(rows(database, status_reports)) == 1


OTHER_CHANNELS = [
    "SMSID=sms-1&TypeId=1&SendStatus=5&SendSuccess=169&TotalReceiver=169&TotalPrice=696987",
    "smsid=SMS-1&typeid=2&SendStatus=5&SendFailed=1",
    "SMSID=sms-1&TypeId=24&oaid=1&phonenumber=1234567890123456789",
    "SMSID=sms-1&TypeId=40000&SendStatus=5&SendSuccess=1",
]


@pytest.mark.parametrize("query", OTHER_CHANNELS)
def test_a_message_of_another_channel_is_kept_and_is_no_call(
    client: FlaskClient, database: Database, query: str
) -> None:
    for _ in range(2):
        answer = client.get(f"{URL}?{query}")
        assert (answer.status_code, answer.json) == (200, {"result": "other-channel"})

    (row,) = rows(database, rejected_callbacks)
    assert re.fullmatch(r"other channel: TypeId (1|2|24|40000)", row["reason"])
    assert row["count"] == 2
    assert rows(database, calls) == rows(database, status_reports) == []


@pytest.mark.parametrize(
    "query",
    [
        "SMSID=otp&TypeId=8&SendStatus=5&SendSuccess=1",
        "SMSID=otp&SendStatus=5&SendSuccess=1",
        "SMSID=otp&TypeId=x&SendStatus=5&SendSuccess=1",
        "ReferenceId=otp&TypeId=2&SendStatus=5&SendSuccess=1",
    ],
)
def test_a_message_form_without_another_channel_is_a_call(client: FlaskClient, database: Database, query: str) -> None:
    assert client.get(f"{URL}?{query}").json == {"result": "settled"}

    (call,) = rows(database, calls)
    assert (call["kind"], call["outcome"]) == ("otp", "delivered")


def test_a_message_about_a_registered_id_is_about_a_call(client: FlaskClient, database: Database) -> None:
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    assert client.post("/api/calls", json={"reference_id": "SMS-1"}, headers=headers).status_code == 201

    assert client.get(f"{URL}?{OTHER_CHANNELS[0]}").json == {"result": "settled"}
    assert rows(database, rejected_callbacks) == []


def test_wrong_tokens_are_counted_in_the_database_and_in_metrics(
    app: Flask, client: FlaskClient, reader: Reader
) -> None:
    before = metric(client, "esms_wrong_tokens_total")
    for path in ("wrong-token-of-any-kind", "another-wrong-token-of-any-kind/", "x"):
        assert client.get(f"/esms/callback/{path}?ReferenceId=a").status_code == 404
    app.extensions["token_counter"].close()

    now = datetime.now(UTC)
    assert reader.status(Due(placed_until=now, due_until=now)).wrong_tokens.count == 3
    assert metric(client, "esms_wrong_tokens_total") == before + 3


def test_values_that_cannot_be_read_are_counted_by_parameter(client: FlaskClient) -> None:
    def counts() -> list[float]:
        names = ("Price", "CallDuration", "other")
        return [metric(client, "esms_unread_values_total", parameter=name) for name in names]

    before = counts()
    client.get(URL, query_string={"ReferenceId": "a", "Price": "free", "CallDuration": "long"})
    client.get(f"{URL}?ReferenceId=a&amp;CallStatus=ANSWERED&amp;Price=1")

    assert [new - old for new, old in zip(counts(), before, strict=True)] == [1, 1, 2]


def metric(client: FlaskClient, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(one.value for one in samples if one.name == name and one.labels == labels)


@ON_SQLITE
def test_wrong_token_gets_the_same_404_for_every_request(client: FlaskClient, database: Database) -> None:
    for path in [
        "/esms/callback/wrong-token-of-the-tests",
        f"/esms/callback/{API_TOKEN}",
        f"/esms/callback/{CALLBACK_TOKEN.upper()}",
        f"{URL}//",
        f"{URL}/x",
        f"{URL}x",
        URL[:-1],
        f"{URL}%20",
        f"{URL}%00",
        f"{URL}%0A",
        f"{URL},other",
        f"/esms/callback//{CALLBACK_TOKEN}",
        f"/esms//callback/{CALLBACK_TOKEN}",
        f"/esms/{CALLBACK_TOKEN}",
        "/esms/callback/%C3%A9%E2%82%AC%F0%9F%98%80",
        "/esms/callback/%FF%ED%A0%80",
        "/esms/callback/*",
        "/esms/callback/",
        "/esms/callback",
        "/esms/",
        "/esms",
    ]:
        (expected,) = client.get("/esms/callback/some-other-wrong-token").iter_encoded()

        for method in ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"):
            for sent in ({}, {"query_string": DOCUMENTED}, {"data": DOCUMENTED}, {"data": b"x" * 100_000}):
                answer = client.open(path, method=method, **sent)
                assert answer.status_code == 404
                assert answer.data == (b"" if method == "HEAD" else expected)
                assert dict(answer.headers) == {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(expected)),
                    "X-Content-Type-Options": "nosniff",
                    "Cache-Control": "no-store",
                }
        assert nothing_is_stored(database)


def test_every_one_of_several_tokens_works_and_no_other(settings: Settings, database: Database) -> None:
    with serving(settings, callback_token=(CALLBACK_TOKEN, "the-old-callback-token")) as client:
        for token in (CALLBACK_TOKEN, "the-old-callback-token"):
            assert client.get(f"/esms/callback/{token}?ReferenceId=a").status_code == 200
        assert client.get(f"/esms/callback/{CALLBACK_TOKEN},the-old-callback-token?ReferenceId=a").status_code == 404
    assert len(rows(database, status_reports)) == 2


def test_token_may_be_percent_encoded(client: FlaskClient) -> None:
    encoded = "".join(f"%{ord(character):02x}" for character in CALLBACK_TOKEN)

    assert client.get(f"/esms/callback/{encoded}?ReferenceId=a").status_code == 200


@ON_SQLITE
@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_other_methods_are_refused_and_store_nothing(client: FlaskClient, database: Database, method: str) -> None:
    answer = client.open(URL, method=method, query_string=DOCUMENTED, data={"CallStatus": "ANSWERED"})

    assert answer.status_code == 405
    assert {allowed.strip() for allowed in answer.headers["Allow"].split(",")} == {"GET", "POST"}
    assert answer.content_type == "application/json"
    if method != "HEAD":
        assert set(answer.get_json()) == {"error"}
    assert nothing_is_stored(database)


# The database is away, and there is no spool


@pytest.fixture
def unspooled(settings: Settings) -> Iterator[FlaskClient]:
    with serving(settings, spool=False) as client:
        yield client


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Another process holds the lock that writing needs."""
    if settings.is_embedded:
        with closing(sqlite3.connect(str(make_url(settings.database).database), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
        return
    engine = create_engine(settings.database)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE calls IN ACCESS EXCLUSIVE MODE"))
        yield
    engine.dispose()


@contextmanager
def no_connections(settings: Settings, server: str) -> Iterator[None]:
    """PostgreSQL ends every connection to the database and takes no new one."""
    name = make_url(settings.database).database
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))  # noqa: S608
        yield
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    engine.dispose()


def assert_later(answer: TestResponse, started: float) -> None:
    assert time.monotonic() - started < QUICK_SECONDS
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert set(answer.get_json()) == {"error"}


def test_a_locked_database_gets_a_quick_503_and_the_repeated_callback_is_stored(
    settings: Settings, database: Database
) -> None:
    with serving(settings, spool=False, answer_within=timedelta(seconds=2)) as unspooled:
        unspooled.get(f"{URL}?ReferenceId=before")
        with locked(settings):
            started = time.monotonic()
            assert_later(unspooled.get(f"{URL}?ReferenceId=a&SendStatus=5"), started)

        assert unspooled.get(f"{URL}?ReferenceId=a&SendStatus=5").json == {"result": "settled"}
    assert [row["reference_id"] for row in rows(database, status_reports)] == ["before", "a"]


@pytest.mark.parametrize("query", ["ReferenceId=a&SendStatus=5", "CallStatus=ANSWERED"], ids=["readable", "unreadable"])
def test_a_database_without_its_tables_gets_a_503(unspooled: FlaskClient, database: Database, query: str) -> None:
    assert unspooled.get(f"{URL}?ReferenceId=before").status_code == 200
    with database.transaction() as connection:
        cascade = "" if database.is_sqlite else " CASCADE"
        [connection.execute(text(f"DROP TABLE {table}{cascade}")) for table in TABLES]

    assert_later(unspooled.get(f"{URL}?{query}"), time.monotonic())


@ON_POSTGRESQL
def test_a_postgresql_that_is_down_gets_a_quick_503_and_is_used_again_once_it_is_back(
    unspooled: FlaskClient, settings: Settings, database: Database, postgresql: str
) -> None:
    assert unspooled.get(f"{URL}?ReferenceId=a&SendStatus=2").status_code == 200
    with no_connections(settings, postgresql):
        for query in ("ReferenceId=a&SendStatus=5", "CallStatus=ANSWERED"):
            started = time.monotonic()
            assert_later(unspooled.get(f"{URL}?{query}"), started)

    assert unspooled.get(f"{URL}?ReferenceId=a&SendStatus=5").json == {"result": "settled"}
    database.close()


@ON_POSTGRESQL
def test_connections_that_postgresql_ended_cost_no_callback(
    unspooled: FlaskClient, settings: Settings, postgresql: str, database: Database
) -> None:
    assert unspooled.get(f"{URL}?ReferenceId=a&SendStatus=2").status_code == 200
    with no_connections(settings, postgresql):
        pass

    assert unspooled.get(f"{URL}?ReferenceId=a&SendStatus=5").json == {"result": "settled"}
    database.close()


@ON_SQLITE
def test_a_sqlite_whose_folder_is_missing_gets_a_503(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    url = f"sqlite:///{folder}/calls.db"
    with serving(settings, database_url=url, spool=False) as client:
        assert_later(client.get(f"{URL}?ReferenceId=a"), time.monotonic())
        folder.mkdir()
        database = Database(url)
        database.migrate()
        assert client.get(f"{URL}?ReferenceId=a").json == {"result": "progressed"}
        database.close()


@ON_SQLITE
def test_a_sqlite_whose_file_was_deleted_under_the_server_gets_a_503(unspooled: FlaskClient, tmp_path: Path) -> None:
    """What goes into a deleted file is not durable, and must not be answered 200."""
    assert unspooled.get(f"{URL}?ReferenceId=a").status_code == 200
    for file in tmp_path.glob("calls.db*"):
        file.unlink()

    assert_later(unspooled.get(f"{URL}?ReferenceId=a&SendStatus=5"), time.monotonic())


# Whom a report came from


@ON_SQLITE
@pytest.mark.parametrize(
    ("trusted_proxies", "header", "expected"),
    [
        (0, "203.0.113.7", "127.0.0.1"),
        (1, "203.0.113.7", "203.0.113.7"),
        (1, "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (2, "198.51.100.1, 203.0.113.7", "198.51.100.1"),
        (1, None, "127.0.0.1"),
    ],
)
def test_forwarded_addresses_count_for_the_trusted_number_of_proxies(
    settings: Settings, database: Database, trusted_proxies: int, header: str | None, expected: str
) -> None:
    headers = {"X-Forwarded-For": header} if header else {}
    with serving(settings, trusted_proxies=trusted_proxies) as client:
        client.get(f"{URL}?ReferenceId=a", headers=headers)
        client.get(URL, headers=headers)

    assert [row["remote_addr"] for row in rows(database, status_reports)] == [expected]
    assert [row["remote_addr"] for row in rows(database, rejected_callbacks)] == [expected]


@ON_SQLITE
def test_a_sender_without_an_address_behind_a_unix_socket_is_null(client: FlaskClient, database: Database) -> None:
    for query in ("ReferenceId=a", ""):
        client.get(f"{URL}?{query}", environ_overrides={"REMOTE_ADDR": ""})

    assert [row["remote_addr"] for row in rows(database, status_reports)] == [None]
    assert [row["remote_addr"] for row in rows(database, rejected_callbacks)] == [None]


# Whatever comes

names = st.sampled_from([*DOCUMENTED, "SMSID", "TotalPrice", "SendSuccess", "referenceid", "SMSID ", "", "x\0"])
values = st.sampled_from(
    ["", "a", "b", "5", "2", "-1", "1e9", "9" * 5000, "NO ANSWER", "450.0000", "\0", "é", "\ud800"]
)
anything = st.one_of(values, st.text(max_size=300))
pairs = st.lists(st.tuples(names, anything), max_size=8)


def as_form(said: list[tuple[str, str]]) -> bytes:
    return "&".join(f"{quote(name)}={quote(value, errors='surrogatepass')}" for name, value in said).encode()


def as_json(said: list[tuple[str, str]]) -> bytes:
    return json.dumps(dict(said)).encode()


def as_multipart(said: list[tuple[str, str]]) -> bytes:
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    return ("".join(part.format(*pair) for pair in said) + "--b--").encode("utf-8", "surrogatepass")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=300),
    pairs.map(as_form),
    pairs.map(as_json),
    pairs.map(as_multipart),
    json_values.map(json.dumps).map(str.encode),
    st.integers(esms_callback.BODY_LIMIT - 50, esms_callback.BODY_LIMIT + 50).map(b"ReferenceId=a&".ljust),
)
queries_ = st.one_of(st.just(b"ReferenceId=a"), st.binary(max_size=200), pairs.map(as_form))
kinds = st.one_of(
    st.sampled_from(
        ["", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "multipart/x"]
    ),
    st.text(st.characters(max_codepoint=255), max_size=60),
)
methods = st.sampled_from(["GET", "GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])


@examples(deadline=None, max_examples=sized(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=methods, query=queries_, body=bodies, kind=kinds, missing=st.sampled_from([None, 0, 0, 0, 1]))
def test_no_bytes_cause_a_server_error_and_every_answer_matches_the_rows(
    app: Flask, database: Database, method: str, query: bytes, body: bytes, kind: str, missing: int | None
) -> None:
    def counts() -> tuple[int, int]:
        with database.snapshot(limited=False) as connection:
            reports = connection.scalar(select(func.count()).select_from(status_reports))
            rejected = connection.scalar(select(func.sum(rejected_callbacks.c.count)))
        return reports or 0, int(rejected or 0)

    length = announced_as(None if missing is None else len(body) + missing)
    reports, rejected = counts()

    answer = app.test_client().open(
        URL,
        method=method,
        environ_overrides={
            "QUERY_STRING": query.decode("latin-1"),
            "CONTENT_TYPE": kind,
            "wsgi.input": io.BytesIO(body),
            **length,
        },
    )

    stored = {200: (1, 0), 400: (0, 1), 405: (0, 0)}
    assert answer.status_code in stored
    assert (answer.status_code == 405) == (method not in {"GET", "POST"})
    more_reports, more_rejected = stored[answer.status_code]
    assert counts() == (reports + more_reports, rejected + more_rejected)


# Over a real server


def test_tokens_in_parameters_are_not_stored(client: FlaskClient, database: Database) -> None:
    written = quote(f"https://calls.example.vn{URL}?ReferenceId=", safe="")
    client.get(f"{URL}?ReferenceId=a&Ivr={CALLBACK_TOKEN}&Url={written}")
    client.post(URL, data={"ReferenceId": "a", "Url": URL})
    client.post(URL, json={"ReferenceId": "a", "Url": URL})
    client.post(f"{URL}?x={written}", data={"Url": URL})

    for table in (calls, status_reports, rejected_callbacks):
        kept = rows(database, table)
        assert kept
        assert CALLBACK_TOKEN not in repr(kept)
    assert [report["ivr"] for report in rows(database, status_reports)] == ["***", None, None]


def in_digits(words: str, *, every: int = 1, upper: bool = False, times: int = 1) -> str:
    """Every n-th character percent-encoded, and the percent signs of that again, ``times`` in all."""
    digits = "02X" if upper else "02x"
    percent = "%" + "25" * (times - 1)
    return "".join(
        f"{percent}{ord(character):{digits}}" if place % every == 0 else character
        for place, character in enumerate(words)
    )


@ON_SQLITE
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("every", [1, 2, 7, 27])
def test_percent_encoded_tokens_are_not_stored(
    client: FlaskClient, database: Database, every: int, times: int, *, upper: bool
) -> None:
    written = in_digits(CALLBACK_TOKEN, every=every, upper=upper, times=times)

    client.get(f"{URL}?ReferenceId=a&Ivr={written}&x=%2{written}%")
    client.post(URL, data=f"ReferenceId={written}&Ivr=1", content_type="application/x-www-form-urlencoded")
    client.post(URL, json={"ReferenceId": "b", "Ivr": written})
    client.post(f"{URL}?Ivr={written}")

    for table in (calls, status_reports, rejected_callbacks):
        kept = repr(rows(database, table))
        for _ in range(times + 1):
            assert CALLBACK_TOKEN not in kept
            assert written not in kept
            kept = unquote(kept)
    assert [report["ivr"] for report in rows(database, status_reports)] == ["***", "1", "***"]
    assert rows(database, status_reports)[1]["reference_id"] == "***"


@ON_SQLITE
@pytest.mark.parametrize(
    ("written", "content_type"),
    [
        (b'{"Url": "' + "".join(f"\\u{ord(letter):04x}" for letter in URL).encode() + b'", }', "application/json"),
        (f'{{"Url": "{URL}"}}'.encode("utf-16"), "application/json"),
        (b"Url=" + b64encode(URL.encode()), "application/x-www-form-urlencoded"),
        (
            b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encodebytes(URL.encode()) + b"--b--",
            "multipart/x; boundary=b",
        ),
        (b"Url=" + in_digits(in_digits(URL)).encode(), "application/x-www-form-urlencoded"),
        (b"SMSID=a&TypeId=24&Url=" + b64encode(URL.encode()), "application/x-www-form-urlencoded"),
    ],
    ids=["JSON escapes", "UTF-16", "base64", "multipart", "percent twice", "another channel"],
)
def test_encoded_tokens_in_rejected_requests_are_not_stored(
    client: FlaskClient, database: Database, written: bytes, content_type: str
) -> None:
    client.post(URL, content_type=content_type, data=written)

    (kept,) = rows(database, rejected_callbacks)
    _, body = esms_callback.stored_request(kept["payload"])
    assert body.count(b"***") == 1
    assert len(body) <= len(written) - len(CALLBACK_TOKEN) + len("***")


def ask_raw(address: str, request: bytes, *, end: bool = False) -> tuple[bytes, dict[str, Any]]:
    """Send bytes as they are, and no more if that is the ``end``; the head and the JSON of the answer."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(request)
        if end:
            line.shutdown(socket.SHUT_WR)
        answer = b""
        while part := line.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, json.loads(body)


@ON_SQLITE
@pytest.mark.usefixtures("settings")
def test_a_query_that_is_not_encoded_is_read_and_a_malformed_request_is_not_echoed(
    database: Database, tmp_path: Path
) -> None:
    end = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    log = tmp_path / "log"
    with running(log, "--workers", "1") as address:
        for query in (
            b"ReferenceId=a&CallStatus=NO ANSWER&x= y ",
            "ReferenceId=b&Note=điện".encode(),
            b"ReferenceId=c&Note=\xff\x7f",
            b"ReferenceId=d&Ivr=#&Price=450.0000&Note=#a%23&SendStatus=7",
        ):
            head, said = ask_raw(address, b"GET " + URL.encode() + b"?" + query + end)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert set(said) == {"result"}
        for broken in (
            b"GET " + URL.encode() + b"?ReferenceId=d\r\n\r\n",
            URL.encode() + b"\r\n\r\n",
            b"G(T " + URL.encode() + end,
            b"GET " + URL.encode() + b"?" + b"x" * 9000 + end,
            b"GET " + URL.encode() + b" HTTP/1.1\r\n" + URL.encode() + b"\r\n\r\n",
        ):
            head, said = ask_raw(address, broken)
            assert head.startswith(b"HTTP/1.1 400 ")
            assert b"application/json" in head
            assert said == {"error": "This is no HTTP request that can be read."}

    reports = rows(database, status_reports)
    assert [report["reference_id"] for report in reports] == ["a", "b", "c", "d"]
    assert reports[0]["call_status"] == "NOANSWERED"
    assert [reports[3][name] for name in ("ivr", "price", "send_status")] == ["#", Decimal(450), 7]
    assert json.loads(reports[3]["payload"])["Note"] == "#a#"
    assert json.loads(reports[1]["payload"])["Note"] == "điện"
    assert json.loads(reports[2]["payload"])["Note"].encode("utf-8", "surrogateescape") == b"\xff\x7f"
    assert rows(database, rejected_callbacks) == []
    assert log.read_text().count(CALLBACK_TOKEN) == 1, "where the CallbackUrl is printed"


@ON_SQLITE
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("locked", [False, True])
def test_body_that_does_not_arrive_is_answered_within_the_deadline_and_kept(
    database: Database, tmp_path: Path, *, locked: bool
) -> None:
    head = b"POST " + URL.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    asked = [
        head + b"Content-Length: 99\r\n\r\nReferenceId=a&Ivr=",
        head + b"Transfer-Encoding: chunked\r\n\r\n63\r\nReferenceId=b&Ivr=",
    ]
    with running(tmp_path / "log", "--workers", "1", ANSWER_WITHIN="2s") as address:
        with closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE" if locked else "SELECT 1")
            began = time.monotonic()
            with ThreadPoolExecutor(2) as threads:
                answers = list(threads.map(partial(ask_raw, address), asked))
            assert time.monotonic() - began < 10, "long before the connection is given up"
        until(lambda: len(rows(database, rejected_callbacks)) == 2)
        kept = rows(database, rejected_callbacks)

    for answer, said in answers:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert said == {"error": "body: ended before it was whole"}
    assert [row["reason"] for row in kept] == ["body: ended before it was whole"] * 2
    assert (b"", b"ReferenceId=b&Ivr=") in [sent(row) for row in kept]


@ON_SQLITE
@pytest.mark.usefixtures("settings")
def test_received_part_of_a_chunked_body_that_breaks_off_is_kept(database: Database, tmp_path: Path) -> None:
    head = b"POST " + URL.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    came = b"ReferenceId=a&x=".ljust(2500, b"x") + b"&CallDuration=1"
    first = b"%x\r\n%b\r\n" % (len(came), came)
    with running(tmp_path / "log", "--workers", "1") as address:
        for rest in (b"", b"20\r\n&Ivr=", b"no chunk\r\n"):
            answer, said = ask_raw(address, head + first + rest, end=True)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert said == {"error": "body: ended before it was whole"}

    kept = {sent(row): row["count"] for row in rows(database, rejected_callbacks)}
    assert kept == {(b"", came): 2, (b"", came + b"&Ivr="): 1}
