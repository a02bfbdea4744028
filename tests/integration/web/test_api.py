"""The JSON API: tokens, registering, one call, and pages of many."""

from __future__ import annotations

import base64
import io
import json
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from constants import API_TOKEN, CALLBACK_TOKEN, sized
from flask import jsonify
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from makers import NOW, callback
from sqlalchemy import text

from webapp import create_app
from webapp.storage.models import calls

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
MEBIBYTE = 1024 * 1024


class Api:
    """A client that sends the token."""

    def __init__(self, client: FlaskClient) -> None:
        """Send through ``client``."""
        self._client = client
        self._headers = {"Authorization": f"Bearer {API_TOKEN}"}

    def register(self, body: Any) -> tuple[int, Any]:
        answer = self._client.post("/api/calls", json=body, headers=self._headers)
        return answer.status_code, answer.json

    def register_raw(self, body: bytes) -> tuple[int, Any]:
        answer = self._client.post("/api/calls", data=body, headers=self._headers)
        return answer.status_code, answer.json

    def get(self, path: str) -> tuple[int, Any]:
        answer = self._client.get(f"/api/calls{path}", headers=self._headers)
        return answer.status_code, answer.json

    def found(self, query: str) -> list[str]:
        """The ids on a page, in their order."""
        status, answer = self.get(f"?{query}")
        assert status == 200, answer
        return [call["reference_id"] for call in answer["calls"]]

    def call(self, reference_id: str) -> Any:
        status, answer = self.get(f"/{reference_id}")
        assert status == 200, answer
        return answer

    def callback(self, query: str) -> None:
        assert self._client.get(f"/esms/callback/{CALLBACK_TOKEN}?{query}").status_code == 200


@pytest.fixture
def api(client: FlaskClient) -> Api:
    return Api(client)


# Who may ask


@ON_SQLITE
def test_without_the_bearer_token_nothing_is_shown_or_stored(client: FlaskClient, reader: Reader) -> None:
    for headers in [
        {},
        {"Authorization": "Bearer wrong-token-of-the-tests"},
        {"Authorization": f"Bearer {API_TOKEN}x"},
        {"Authorization": f"Bearer {API_TOKEN[:-1]}"},
        {"Authorization": f"Bearer {API_TOKEN.upper()}"},
        {"Authorization": f"Bearer {CALLBACK_TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer é\x80"},
        {"Authorization": f"Bearer token={API_TOKEN}"},
        {"Authorization": f"Token {API_TOKEN}"},
        {"Authorization": API_TOKEN},
        {"Authorization": f"Basic {base64.b64encode(f'x:{API_TOKEN}'.encode()).decode()}"},
        {"Authorization": f"Basic {base64.b64encode(f'{API_TOKEN}:'.encode()).decode()}"},
        {"X-Api-Token": API_TOKEN},
        {"Cookie": f"token={API_TOKEN}"},
    ]:
        asked = [
            client.get("/api/calls", headers=headers),
            client.get(f"/api/calls?token={API_TOKEN}&access_token={API_TOKEN}", headers=headers),
            client.get("/api/calls/a", headers=headers),
            client.get("/api/calls/", headers=headers),
            client.get("/api/nothing", headers=headers),
            client.get("/api", headers=headers),
            client.delete("/api/calls", headers=headers),
            client.options("/api/calls", headers=headers),
            client.post("/api/calls", json={"reference_id": "a"}, headers=headers),
            client.post("/api/calls", data={"token": API_TOKEN}, headers=headers),
        ]

        assert {answer.status_code for answer in asked} == {401}
        assert {answer.headers["WWW-Authenticate"].strip() for answer in asked} == {"Bearer"}
        assert len({answer.data for answer in asked}) == 1
        assert set(asked[0].get_json()) == {"error"}
        assert reader.count() == 0


@ON_SQLITE
def test_every_one_of_several_tokens_works(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_token": (API_TOKEN, "the-old-api-token")}))
    for header in (f"Bearer {API_TOKEN}", "Bearer the-old-api-token", f"bearer  {API_TOKEN}"):
        assert app.test_client().get("/api/calls", headers={"Authorization": header}).status_code == 200
    app.extensions["token_counter"].close()
    app.extensions["database"].close()
    app.extensions["ingest"].close()


@ON_SQLITE
def test_errors_are_json_also_where_there_is_nothing(client: FlaskClient) -> None:
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    for method, path, status in (("GET", "/api", 404), ("GET", "/api/x", 404), ("PUT", "/api/calls", 405)):
        answer = client.open(path, method=method, headers=headers)
        assert (answer.status_code, set(answer.get_json())) == (status, {"error"})


# Registering


def test_one_object_or_a_list_is_registered_and_counted(api: Api) -> None:
    assert api.register({"reference_id": "a"}) == (201, {"registered": 1, "already_known": 0, "changed": 0})
    assert api.register([{"reference_id": "A "}, {"reference_id": "b"}]) == (
        201,
        {"registered": 1, "already_known": 1, "changed": 0},
    )
    assert api.register([{"reference_id": "c"}, {"reference_id": "C"}]) == (
        201,
        {"registered": 1, "already_known": 1, "changed": 0},
    )
    assert api.register([{"reference_id": "a", "campaign": "june"}, {"reference_id": "b"}]) == (
        201,
        {"registered": 0, "already_known": 2, "changed": 1},
    )
    assert api.register([]) == (201, {"registered": 0, "already_known": 0, "changed": 0})


def test_a_call_known_only_from_its_callback_counts_as_registered_and_stays_settled(api: Api) -> None:
    api.callback("ReferenceId=a&SendStatus=5&CallStatus=ANSWERED&Price=450.0000")
    before = api.call("a")

    assert api.register({"reference_id": "a", "campaign": "june"}) == (
        201,
        {"registered": 1, "already_known": 0, "changed": 0},
    )

    after = api.call("a")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"campaign", "registered_at", "registered_fields", "updated_at"}


def test_calls_to_which_a_value_is_new_are_counted(api: Api) -> None:
    api.register([{"reference_id": "a", "phone": "1"}, {"reference_id": "b", "phone": "1", "campaign": "may"}])

    answer = api.register(
        [
            {"reference_id": "A", "phone": "1"},
            {"reference_id": "b", "phone": " ", "campaign": "june"},
            {"reference_id": "c", "phone": "1"},
        ]
    )

    assert answer == (201, {"registered": 1, "already_known": 2, "changed": 1})


@pytest.mark.parametrize("field", ["campaign", "request_id"])
def test_one_text_is_one_however_its_letters_are_composed(api: Api, field: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Đà Nẵng") for form in ("NFC", "NFD"))
    api.register([{"reference_id": "a", field: composed}, {"reference_id": "b", field: decomposed}])

    assert {api.call(name)[field] for name in "ab"} == {composed}
    assert api.found(f"{field}={quote(composed)}") == api.found(f"{field}={quote(decomposed)}") == ["b", "a"]


PHONES = [
    "0901888484",
    "0901 888 484",
    "0901.888.484",
    "+84901888484",
    "%2B84 901888484",
    "0084901888484",
    "84901888484",
]


def test_a_phone_is_found_however_it_and_the_question_are_written(api: Api) -> None:
    given = ["0901 888 484", "+84901888484", "0084 901888484", "84901888484", "0901888485", "no number", ""]
    api.register([{"reference_id": f"r{place}", "phone": phone} for place, phone in enumerate(given)])
    api.callback("SMSID=otp&SendStatus=5&SendSuccess=1&SendFailed=0&TypeId=8&phonenumber=84901888484")
    for asked in PHONES:
        assert sorted(api.found(f"phone={asked}")) == ["otp", "r0", "r1", "r2", "r3"]
        assert {api.call(name)["phone_e164"] for name in ("otp", "r0", "r1", "r2", "r3")} == {"+84901888484"}
        assert api.call("r0")["phone"] == "0901 888 484"
        assert api.found("phone=no number") == ["r5"]
        assert [api.call(name)["phone_e164"] for name in ("r5", "r6")] == [None, None]


def test_newer_values_replace_older_ones_and_blank_ones_replace_nothing(api: Api) -> None:
    api.register({"reference_id": "a", "phone": "0901", "campaign": "may", "request_id": "r1"})
    first = api.call("a")["registered_at"]

    api.register({"reference_id": "a", "phone": "0902", "campaign": " ", "request_id": None})

    call = api.call("a")
    assert (call["phone"], call["campaign"], call["request_id"]) == ("0902", "may", "r1")
    assert call["registered_at"] == first


def test_times_without_a_zone_are_in_the_configured_one_and_shown_with_z(api: Api) -> None:
    for written, stored in [
        ("2026-06-01T10:00:00+07:00", "2026-06-01T03:00:00.000000Z"),
        ("2026-06-01T10:00:00.123456Z", "2026-06-01T10:00:00.123456Z"),
        ("2026-06-01T10:00:00", "2026-06-01T03:00:00.000000Z"),
        ("2026-06-01", "2026-05-31T17:00:00.000000Z"),
        ("1/6/2026 10:00", "2026-06-01T03:00:00.000000Z"),
        ("2999-01-01T00:00:00Z", "2999-01-01T00:00:00.000000Z"),
    ]:
        assert api.register({"reference_id": "a", "placed_at": written})[0] == 201
        assert api.call("a")["placed_at"] == stored


@ON_SQLITE
def test_one_bad_item_refuses_the_whole_list_with_its_place(api: Api, reader: Reader) -> None:
    for item, place in [
        ({}, "reference_id"),
        ({"reference_id": None}, "reference_id"),
        ({"reference_id": " "}, "reference_id"),
        ({"reference_id": "a b"}, "reference_id"),
        ({"reference_id": "é"}, "reference_id"),
        ({"reference_id": "a" * 129}, "reference_id"),
        ({"reference_id": ["a"]}, "reference_id"),
        ({"reference_id": True}, "reference_id"),
        ({"reference_id": 1.5}, "reference_id"),
        ({"reference_id": "a", "phone": "0" * 201}, "phone"),
        ({"reference_id": "a", "phone": {}}, "phone"),
        ({"reference_id": "a", "campaign": "\0"}, "campaign"),
        ({"reference_id": "a", "campaign": "\ud800"}, "campaign"),
        ({"reference_id": "a", "request_id": False}, "request_id"),
        ({"reference_id": "a", "placed_at": "yesterday"}, "placed_at"),
        ({"reference_id": "a", "placed_at": "2026-13-01"}, "placed_at"),
        ({"reference_id": "a", "placed_at": "0001-01-01T00:00:00+14:00"}, "placed_at"),
        ({"reference_id": "a", "placed_at": 1780000000}, "placed_at"),
        ({"reference_id": "a", "Phone": "0901"}, "'Phone'"),
        ({"reference_id": "a", "\ud800": "x"}, "'\\ud800'"),
        ("a", "reference_id"),
        (None, "reference_id"),
        ([], "reference_id"),
    ]:
        listed = [{"reference_id": "x"}, {"reference_id": "y"}, {"reference_id": "z"}, item]

        status, answer = api.register(listed)

        assert status == 400, answer
        assert answer["error"].startswith(f"calls[3].{place}: ")
        if isinstance(item, dict):
            alone, answer = api.register(item)
            assert alone == 400
            assert answer["error"].startswith(f"{place}: ")
        assert reader.count() == 0


@ON_SQLITE
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b"reference_id=a",
        b'{"reference_id": "a"} x',
        b"1" * 5000,
    ],
    ids=range(8),
)
def test_what_is_no_json_is_refused(api: Api, body: bytes) -> None:
    status, answer = api.register_raw(body)

    assert status == 400
    assert "JSON" in answer["error"]


@pytest.mark.parametrize("length", [200, 201])
def test_text_has_200_characters_at_most(api: Api, length: int) -> None:
    answers = {name: api.register({"reference_id": "a", name: "ế" * length})[0] for name in ("phone", "campaign")}

    assert set(answers.values()) == {201 if length == 200 else 400}


@ON_SQLITE
def test_a_list_has_10000_calls_at_most(api: Api, reader: Reader) -> None:
    items = [{"reference_id": f"call-{number}"} for number in range(10_001)]

    status, answer = api.register(items)
    assert status == 400
    assert "10001" in answer["error"]
    assert reader.count() == 0

    assert api.register(items[1:]) == (201, {"registered": 10_000, "already_known": 0, "changed": 0})
    assert reader.count() == 10_000


@ON_SQLITE
def test_over_8_mib_is_refused_before_it_is_read(client: FlaskClient, reader: Reader) -> None:
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    allowed = json.dumps({"reference_id": "a"}).encode().ljust(8 * MEBIBYTE)

    for body, status in ((allowed, 201), (allowed + b" ", 413)):
        chunked = client.post(
            "/api/calls", data=body, headers=headers, environ_overrides={"wsgi.input_terminated": True}
        )
        assert (client.post("/api/calls", data=body, headers=headers).status_code, chunked.status_code) == (
            status,
            status,
        )
    declared = client.post("/api/calls", headers=headers, environ_overrides={"CONTENT_LENGTH": str(8 * MEBIBYTE + 1)})
    assert (declared.status_code, set(declared.get_json())) == (413, {"error"})
    assert reader.count() == 1


class Broken(io.RawIOBase):
    """A body whose reading fails, as gunicorn's does where chunks are broken."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise OSError("Invalid chunk size")


@ON_SQLITE
def test_a_body_that_cannot_be_read_to_its_end_is_refused(client: FlaskClient, reader: Reader) -> None:
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    broken = {"wsgi.input": Broken(), "wsgi.input_terminated": True}

    answer = client.post("/api/calls", headers=headers, environ_overrides=broken)

    assert (answer.status_code, set(answer.get_json())) == (400, {"error"})
    assert reader.count() == 0


# One call


@pytest.mark.parametrize("number", [0, 1, 200, 201])
def test_json_written_in_portions_is_as_json_written_at_once(
    api: Api, writer: Writer, reader: Reader, app: Flask, client: FlaskClient, number: int
) -> None:
    api.register({"reference_id": "a"})
    writer.record([callback("a", place, call_status="BUSY") for place in range(number)], NOW)

    answer = client.get("/api/calls/a", headers={"Authorization": f"Bearer {API_TOKEN}"})

    with app.test_request_context():
        at_once = jsonify(reader.call("a"))
    assert answer.data == at_once.data
    assert answer.headers["Content-Type"] == at_once.headers["Content-Type"]
    assert len(answer.get_json()["reports"]) == number


def test_a_call_is_shown_flat_with_its_reports_in_their_order(api: Api) -> None:
    api.callback("ReferenceId=a&SendStatus=2")
    api.callback("ReferenceId=a&SendStatus=5&CallStatus=NO+ANSWER&CallDuration=0&Price=0.0000&Ivr=%23&SentResult=0")

    call = api.call("a")

    assert set(call) == {column.name for column in calls.columns} | {"reports"}
    assert (call["call_status"], call["call_duration"], call["ivr"]) == ("NOANSWERED", 0, "#")
    assert (call["price"], call["sent_result"], call["settled_by"], call["conflict"]) == (
        "0.0000",
        0,
        "callback",
        False,
    )
    assert [report["effect"] for report in call["reports"]] == ["progressed", "settled"]
    assert call["reports"][0]["received_at"] < call["reports"][1]["received_at"]
    assert (call["placed_at"], call["settled_at"]) == tuple(report["received_at"] for report in call["reports"])
    for moment in ("placed_at", "settled_at", "callback_at", "last_reported_at", "created_at", "updated_at"):
        assert len(call[moment]) == len("2026-11-23T10:00:00.123456Z")
        assert call[moment].endswith("Z")
    assert call["registered_at"] is call["confirmed_at"] is call["gave_up_at"] is None


def test_an_unknown_call_is_404(api: Api) -> None:
    for reference_id in ("nobody", "a%20b", "%C3%A9", "a" * 129, "%00", "%FF"):
        status, answer = api.get(f"/{reference_id}")
        assert (status, set(answer)) == (404, {"error"})


@ON_SQLITE
def test_any_reference_id_can_be_in_the_path(api: Api) -> None:
    for reference_id in [
        "a/b",
        "/a",
        "//a//",
        "a/",
        "/",
        "?",
        "a?b=c",
        "%",
        "100%25",
        "#",
        "a&b",
        "..",
        "./..",
        "a+b",
        "~!@$^*()[]{}|\\'\"<>;",
    ]:
        api.callback(f"ReferenceId={quote(reference_id, safe='')}")

        assert api.call(quote(reference_id, safe=""))["reference_id"] == reference_id


def test_identities_are_found_without_case_and_space(api: Api) -> None:
    api.callback("ReferenceId=505139D7-54F8-48A9-88FA-9460A78731DD%20")

    for spelling in ("505139D7-54F8-48A9-88FA-9460A78731DD", "505139d7-54f8-48a9-88fa-9460a78731dd%20"):
        assert api.call(spelling)["reference_id"] == "505139d7-54f8-48a9-88fa-9460a78731dd"


# Many calls


@pytest.fixture
def many(api: Api) -> Api:
    """Five calls, placed a day apart from 1 June 2026, 00:00 in Vietnam."""
    for day, name in enumerate("abcde"):
        placed_at = f"2026-06-0{day + 1}T00:00:00+07:00"
        api.register({"reference_id": name, "placed_at": placed_at, "campaign": "odd" if day % 2 else "even"})
    api.callback("ReferenceId=a&SendStatus=5&CallStatus=ANSWERED&Ivr=1")
    api.callback("ReferenceId=b&SendStatus=5&CallStatus=NO+ANSWER&Ivr=0")
    api.callback("ReferenceId=c&SendStatus=5&CallStatus=ANSWERED&Ivr=01")
    api.callback("ReferenceId=c&SendStatus=5&CallStatus=NO+ANSWER")
    return api


def test_calls_are_filtered_by_every_parameter_newest_placed_first(many: Api) -> None:
    expected = {
        "": "edcba",
        "status=ANSWERED": "a",
        "status=noanswered": "cb",
        "status=NO%20ANSWER": "cb",
        "ivr=1": "a",
        "ivr=0": "b",
        "ivr=01": "c",
        "campaign=even": "eca",
        "campaign=EVEN": "",
        "missing=1": "ed",
        "missing=true": "ed",
        "missing=0": "cba",
        "missing=false": "cba",
        "conflict=1": "c",
        "conflict=0": "edba",
        "campaign=even&missing=0&conflict=0": "a",
        "status=&ivr=%20&since=": "edcba",
        "since=2026-06-03": "edc",
        "since=03/06/2026": "edc",
        "since=3/6/2026+00:00": "edc",
        "outcome=answered": "a",
        "outcome=Missing": "ed",
        "kind=voice": "cba",
        "kind=otp": "",
        "until=2026-06-03": "ba",
        "since=2026-06-02&until=2026-06-04": "cb",
        "since=2026-06-03T00:00:00%2B07:00": "edc",
        "since=2026-06-03T00:00:00+07:00": "edc",
        "since=2026-06-03T00:00:00+08:00": "edc",
        "since=2026-06-03T00:00:01+07:00": "ed",
        "until=2026-06-03T00:00:00+07:00": "ba",
        "since=2026-06-02T17:00:00Z": "edc",
        "since=2026-06-02T17:00:00.000001Z": "ed",
    }

    assert {query: "".join(many.found(query)) for query in expected} == expected


@ON_SQLITE
def test_a_bad_value_is_refused_by_name(many: Api) -> None:
    for query, name in [
        ("since=yesterday", "since"),
        ("until=2026-02-30", "until"),
        ("until=0001-01-01T00:00:00+14:00", "until"),
        ("missing=perhaps", "missing"),
        ("conflict=2", "conflict"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=٣", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("status=%00", "status"),
        ("ivr=%00", "ivr"),
        ("campaign=a%00", "campaign"),
        ("cursor=x", "cursor"),
        ("cursor=é", "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"yesterday a").decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"0001-01-01T00:00:00+14:00 a").decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"2026-06-01T00:00:00Z a b").decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"2026-06-01T00:00:00Z \xff").decode(), "cursor"),
        ("Status=ANSWERED", "'Status'"),
        ("%00=1", "'\\x00'"),
    ]:
        status, answer = many.get(f"?{query}")

        assert status == 400, answer
        assert answer["error"].startswith(f"{name}: ")


def test_a_page_has_100_calls_unless_limited(api: Api) -> None:
    api.register([{"reference_id": f"call-{number}"} for number in range(1001)])

    assert len(api.found("")) == 100
    assert len(api.found("limit=1")) == 1
    assert len(api.found("limit=1000")) == 1000


def test_walking_the_pages_gives_each_call_once_even_while_calls_arrive(api: Api) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    placed = [{"reference_id": f"call-{n:02}", "placed_at": str(now + timedelta(hours=n // 4))} for n in range(23)]
    api.register(placed)
    walked: list[str] = []
    cursor = ""

    while True:
        status, page = api.get(f"?limit=5{f'&cursor={cursor}' if cursor else ''}")
        assert status == 200
        walked += [call["reference_id"] for call in page["calls"]]
        later = now + timedelta(days=len(walked))
        api.register({"reference_id": f"new-{len(walked)}", "placed_at": str(later)})
        cursor = page["next"]
        if cursor is None:
            break

    assert walked == sorted((item["reference_id"] for item in placed), reverse=True)


def test_a_page_that_ends_with_the_last_call_has_no_next(many: Api) -> None:
    assert many.get("?limit=5")[1]["next"] is None
    assert many.get("?limit=4")[1]["next"] is not None


def test_without_a_database_the_api_answers_503(api: Api, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text(f"DROP TABLE calls{'' if database.is_sqlite else ' CASCADE'}"))

    asked = [api.get(""), api.get("/a"), api.register({"reference_id": "a"})]

    assert {status for status, _ in asked} == {503}
    assert {frozenset(answer) for _, answer in asked} == {frozenset({"error"})}


# Whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
items = st.dictionaries(
    st.sampled_from(["reference_id", "phone", "campaign", "request_id", "placed_at"]),
    st.sampled_from(["a", "B", "2026-06-01", "9999-12-31T23:59:59Z", ""]) | st.text(max_size=10) | json_values,
    max_size=5,
)


@examples(deadline=None, max_examples=sized(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(items, st.lists(items, max_size=4), json_values).map(json.dumps).map(str.encode) | st.binary())
def test_no_body_causes_a_server_error(app: Flask, reader: Reader, body: bytes) -> None:
    before = reader.count()

    status, answer = Api(app.test_client()).register_raw(body)

    if status == 201:
        assert reader.count() == before + answer["registered"]
    else:
        assert (status, set(answer), reader.count()) == (400, {"error"}, before)


arguments = st.dictionaries(
    st.sampled_from(["status", "ivr", "campaign", "since", "until", "missing", "conflict", "cursor", "limit", "x"]),
    st.sampled_from(["1", "true", "ANSWERED", "2026-06-01", "9999-12-31", "0001-01-01"]) | st.text(max_size=20),
    max_size=4,
)


@examples(deadline=None, max_examples=sized(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=arguments, raw=st.binary(max_size=20))
def test_no_query_causes_a_server_error(app: Flask, said: dict[str, str], raw: bytes) -> None:
    query = "&".join([*(f"{name}={quote(value)}" for name, value in said.items()), quote(raw)])

    status, answer = Api(app.test_client()).get(f"?{query}")

    assert (status, set(answer)) in ((200, {"calls", "next"}), (400, {"error"}))
