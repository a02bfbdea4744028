"""eSMS's dialect: every inconsistency that its pages show, every bound, and whatever else may be sent to us."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
import samples
from constants import sized
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.calls.report import FIELDS, StatusReport
from webapp.esms import callback as esms_callback
from webapp.esms import lookup as esms_lookup
from webapp.esms import parameters
from webapp.esms.parameters import Unreadable
from webapp.support.settings import CALLBACK_PARAMETERS

if TYPE_CHECKING:
    from webapp.esms.lookup import LookupAnswer

ID = UUID("01a20bf2-9575-71b3-abfd-3d249d83f35d")
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
QUICK = settings(max_examples=sized(150), deadline=None)


def callback(query: str | bytes = "", body: str | bytes = "", kind: str | None = None) -> StatusReport:
    """The report in a request to the CallbackUrl; raises Unreadable."""
    query, body = (part.encode() if isinstance(part, str) else part for part in (query, body))
    return esms_callback.parse_callback(query, body, kind, report_id=ID, received_at=NOW, remote_addr="203.0.113.7")


def saying(**parameters: Any) -> StatusReport:
    """The report in a JSON callback that says this about call ``a``."""
    return callback(body=json.dumps({"ReferenceId": "a"} | parameters), kind=JSON)


def lookup(content: Any, reference_id: str = "a") -> LookupAnswer:
    """What an answer of GetSendStatus means; other than bytes, it is sent as JSON."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return esms_lookup.parse_lookup(reference_id, content, report_id=ID, received_at=NOW)


def said_in_lookup(content: Any, reference_id: str = "a") -> dict[str, Any]:
    report = lookup(content, reference_id).report
    assert report is not None
    return report.said()


def ascii_id(value: Any) -> str:
    """A short name of a case."""
    return ascii(value)[:20]


def payload(report: StatusReport) -> Any:
    """The payload, which any SQL text can hold."""
    assert "\0" not in report.payload
    assert report.payload.encode()
    return json.loads(report.payload)


def test_an_id_is_a_uuid_that_sorts_by_time() -> None:
    assert parameters.new_id().version == 7


# What eSMS publishes


def test_the_published_callback_is_read() -> None:
    report = callback(samples.FAILED_CALL.text)

    assert report == StatusReport(
        final=True,
        id=ID,
        reference_id="066107ee-6ec4-4283-b595-aa74977c65c5",
        source="callback",
        received_at=NOW,
        call_duration=0,
        price=Decimal("0.0000"),
        sent_result=0,
        cid="02871002454",
        send_status=5,
        kind="voice",
        esms_id="066107ee-6ec4-4283-b595-aa74977c65c5",
        payload=report.payload,
        remote_addr="203.0.113.7",
    )
    assert report.final
    assert urlencode(payload(report)) == samples.FAILED_CALL.text


def test_the_published_voice_otp_callback_is_read() -> None:
    report = callback(samples.VOICE_OTP.text)

    assert report.reference_id == "dc712784-9c5f-4c69-b9a8-ea69d56adc9a87"
    assert report.said() == {"send_status": 5, "sent_result": 1, "price": Decimal("470.0000"), "phone": "0901888484"}
    assert payload(report)["telcoid"] == "1"


def test_the_published_template_alone_is_no_report() -> None:
    assert samples.CALLBACK_TEMPLATE.text == "&".join(f"{name}=" for name in CALLBACK_PARAMETERS)
    with pytest.raises(Unreadable, match="ReferenceId: is missing"):
        callback(samples.CALLBACK_TEMPLATE.text)


def test_the_published_answers_are_read() -> None:
    finished = lookup(samples.FINISHED_CALL.text.encode(), "505139d7-54f8-48a9-88fa-9460a78731dd")
    refused = lookup(samples.WRONG_KEYS.text.encode())

    assert (finished.code, finished.kind, finished.answered) == ("100", "final", True)
    assert finished.report is not None
    assert finished.report.said() == {
        "call_status": "ANSWERED",
        "call_duration": 13,
        "send_status": 5,
        "sent_result": 1,
    }
    assert (finished.report.source, finished.report.lookup_code, finished.report.remote_addr) == ("lookup", "100", None)
    assert (refused.code, refused.kind, refused.report) == ("101", "failed", None)
    assert refused.code in esms_lookup.ACCOUNT_REFUSED


def test_an_answer_to_placing_a_call_is_no_answer_to_a_lookup_but_read_all_the_same() -> None:
    placed, failed = (lookup(sample.text.encode()) for sample in (samples.PLACED, samples.TEMPLATE_NOT_FOUND))

    assert (placed.kind, failed.kind) == ("pending", "not_found")


# What its pages disagree about


@pytest.mark.parametrize("identity", [sample.text for sample in samples.IDENTITIES])
@pytest.mark.parametrize("change", [str, str.upper, str.lower, " {}\t".format])
def test_an_identity_is_a_token_without_case_and_space(identity: str, change: Any) -> None:
    expected = identity.strip().lower()

    for name in ("ReferenceId", "SMSID"):
        assert callback(urlencode({name: change(identity)})).reference_id == expected
    assert lookup({"CodeResponse": "100", "ReferenceId": change(identity)}, expected).code == "100"


@pytest.mark.parametrize(
    ("query", "body", "kind"),
    [
        pytest.param("ReferenceId=a&SendStatus=5", "", None, id="GET with a query string, as published"),
        pytest.param("", "ReferenceId=a&SendStatus=5", FORM, id="POST with a form body"),
        pytest.param("", "ReferenceId=a&SendStatus=5", FORM + "; charset=utf-8", id="with a charset"),
        pytest.param("", "ReferenceId=a&SendStatus=5", None, id="without a type"),
        pytest.param("", "ReferenceId=a&SendStatus=5\r\n", "text/plain", id="of another type"),
        pytest.param("", "\ufeffReferenceId=a&SendStatus=5", FORM, id="after a BOM"),
        pytest.param("", '{"ReferenceId": "a", "SendStatus": 5}', JSON, id="POST with a JSON object"),
        pytest.param("", '{"ReferenceId": "a", "SendStatus": 5}', "Text/JSON; charset=utf-8", id="JSON with a charset"),
        pytest.param("", ' {"ReferenceId": "a", "SendStatus": 5}', FORM, id="JSON that says it is a form"),
        pytest.param("", '{"ReferenceId": "a", "SendStatus": 5}', None, id="JSON without a type"),
        pytest.param("", '\ufeff{"ReferenceId": "a", "SendStatus": 5}\n', JSON, id="JSON after a BOM"),
        pytest.param("ReferenceId=a&SendStatus=5", " \r\n", JSON, id="a blank body"),
        pytest.param("ReferenceId=a", '{"SendStatus": 5}', JSON, id="query and JSON together"),
        pytest.param("SendStatus=5&ReferenceId=", "ReferenceId=a&SendStatus=", FORM, id="query and form together"),
    ],
)
def test_callback_is_read_in_every_form(query: str, body: str, kind: str | None) -> None:
    report = callback(query, body, kind)

    assert (report.reference_id, report.said(), report.unread) == ("a", {"send_status": 5}, None)


@pytest.mark.parametrize(
    ("source", "parameters", "said"),
    [
        (
            "callback: names",
            "sendstatus=5&CALLDURATION=13&+cid+=1",
            {"send_status": 5, "call_duration": 13, "cid": "1"},
        ),
        ("callback: CallStatus", "CallStatus=ANSWERED", {"call_status": "ANSWERED"}),
        ("callback: CallStatus", "CallStatus=NO+ANSWER", {"call_status": "NOANSWERED"}),
        ("callback: CallStatus", "CallStatus=+no_answered+", {"call_status": "NOANSWERED"}),
        ("callback: CallStatus of a failed call", "CallStatus=&SendStatus=5", {"send_status": 5}),
        ("callback: CallStatus, another", "CallStatus=busy tone", {"call_status": "BUSY TONE"}),
        ("callback: Ivr is text", "Ivr=007", {"ivr": "007"}),
        ("callback: Ivr is text", "Ivr=0", {"ivr": "0"}),
        ("callback: Ivr is text", "Ivr=", {}),
        ("callback: Ivr is text", "Ivr=*", {"ivr": "*"}),
        ("callback: Ivr is text", "Ivr=%23", {"ivr": "#"}),
        ("callback: Price", "Price=450.0000", {"price": Decimal("450.0000")}),
        ("callback: Price", "Price=450.5", {"price": Decimal("450.5000")}),
        ("callback: Price", "Price=450", {"price": Decimal(450)}),
        ("callback: Price, a number", '{"Price": 450.1234}', {"price": Decimal("450.1234")}),
        ("callback: SendStatus", "SendStatus=1", {"send_status": 1}),
        ("voice OTP: TotalPrice", "TotalPrice=470.0000", {"price": Decimal(470)}),
        ("voice OTP: Totalprice", "Totalprice=470.0000", {"price": Decimal(470)}),
        ("voice OTP: Price besides", "TotalPrice=1&Price=2", {"price": Decimal(2)}),
        ("voice OTP: SendSuccess", "SendSuccess=1&SendFailed=0", {"sent_result": 1}),
        ("voice OTP: SendFailed", "SendSuccess=0&SendFailed=1", {"sent_result": 0}),
        ("voice OTP: SendFailed", "SendFailed=2", {"sent_result": 0}),
        ("voice OTP: both", "SendFailed=1&SendSuccess=2", {"sent_result": 1}),
        ("voice OTP: neither", "SendSuccess=0&SendFailed=0", {}),
        ("voice OTP: SentResult besides", "SendSuccess=1&SentResult=0", {"sent_result": 0}),
        ("voice OTP: RequestId", "RequestId=r-1", {"request_id": "r-1"}),
        ("voice OTP: phonenumber", "phonenumber=0901888484", {"phone": "0901888484"}),
        ("voice OTP: the rest", "TotalReceiver=1&TotalSent=1&TypeId=8&telcoid=1", {}),
        ("GetSendStatus: CallStatus", "CallStatus=NOANSWERED", {"call_status": "NOANSWERED"}),
        ("GetSendStatus: types, a number", '{"CallDuration": 13, "Ivr": 0}', {"call_duration": 13, "ivr": "0"}),
        ("GetSendStatus: types, a string", '{"CallDuration": " 13 "}', {"call_duration": 13}),
        ("GetSendStatus: not said", '{"CallStatus": null, "Ivr": "", "CID": " \\t", "Price": null}', {}),
    ],
)
@pytest.mark.parametrize("identity", ["ReferenceId", "SMSID"])
def test_a_parameter_is_read_however_it_is_put(
    identity: str, source: str, parameters: str, said: dict[str, Any]
) -> None:
    query, body = ("", parameters) if parameters.startswith("{") else (parameters, "")
    report = callback(f"{identity}=a&{query}", body)

    assert (report.reference_id, report.said(), report.unread) == ("a", said, None), source


def test_a_multipart_form_is_read_to_the_byte() -> None:
    part = "--b\r\nContent-Disposition: form-data; name={}\r\n\r\n{}\r\n"
    body = part.format('"ReferenceId"', "A") + part.format("Note", "x\r\n+%41") + "--b--\r\n"
    report = callback(b"SendStatus=5", body.encode() + b"\xff", "Multipart/Form-Data; boundary=b")

    assert (report.reference_id, report.send_status) == ("a", 5)
    assert payload(report) == {"ReferenceId": "A", "Note": "x\r\n+%41", "SendStatus": "5"}


@pytest.mark.parametrize(
    ("content", "code", "kind"),
    [
        pytest.param({"CodeResponse": "100", "SendStatus": 5}, "100", "final", id="CodeResponse"),
        pytest.param({"CodeResult": "100", "SendStatus": 4}, "100", "final", id="CodeResult"),
        pytest.param({"coderesponse": 100, "sendstatus": "5"}, "100", "final", id="a number, and other case"),
        pytest.param({"CodeResponse": None, "CodeResult": " 100 "}, "100", "pending", id="only one is said"),
        pytest.param({"CodeResponse": "100", "SendStatus": 7, "CallStatus": "ANSWERED"}, "100", "pending", id="sent"),
        pytest.param({"CodeResponse": "100", "CallStatus": "NOANSWERED"}, "100", "final", id="no SendStatus"),
        pytest.param({"CodeResponse": "100"}, "100", "pending", id="nothing said"),
        pytest.param({"CodeResponse": "99", "SendStatus": 2}, "99", "pending", id="99 and unfinished"),
        pytest.param({"CodeResult": "99"}, "99", "pending", id="99, try again later"),
        pytest.param({"CodeResponse": "99", "SendStatus": 5}, "99", "final", id="99, number blocked"),
        pytest.param({"CodeResult": "104"}, "104", "not_found", id="104"),
        pytest.param({"CodeResult": 105}, "105", "not_found", id="105"),
        pytest.param({"CodeResult": "101"}, "101", "failed", id="101, wrong keys"),
        pytest.param({"CodeResult": "140"}, "140", "failed", id="140, IP not whitelisted"),
        pytest.param({"CodeResult": "143"}, "143", "failed", id="143, account locked"),
        pytest.param({"CodeResult": "160"}, esms_lookup.TOO_FAST, "failed", id="160, too fast"),
        pytest.param({"CodeResult": "160", "ReferenceId": "b c"}, "160", "failed", id="160 of no call"),
        pytest.param({"CodeResult": "-7"}, "-7", "failed", id="an unknown code"),
        pytest.param({"CodeResponse": "100", "ReferenceId": ""}, "100", "pending", id="empty ReferenceId"),
        pytest.param({"CodeResponse": "100", "ReferenceId": " A "}, "100", "pending", id="ReferenceId, other case"),
        pytest.param({"CodeResponse": "100", "ReferenceId": "b"}, "wrong-reference", "failed", id="of another call"),
        pytest.param({"CodeResponse": "99", "ReferenceId": "b"}, "wrong-reference", "failed", id="99 of another call"),
        pytest.param(
            {"CodeResponse": "100", "ReferenceId": "b c"}, "wrong-reference", "failed", id="of no call at all"
        ),
        pytest.param({"CodeResult": "104", "ReferenceId": "b"}, "wrong-reference", "failed", id="104 of another call"),
        pytest.param(b'\xef\xbb\xbf {"CodeResponse": "100"}\r\n', "100", "pending", id="a BOM"),
        pytest.param({}, "unreadable", "failed", id="no code"),
        pytest.param({"CodeResponse": " ", "CodeResult": ""}, "unreadable", "failed", id="blank codes"),
        pytest.param({"CodeResponse": True}, "unreadable", "failed", id="a code that is no text"),
        pytest.param({"CodeResponse": "1" * 201}, "unreadable", "failed", id="an endless code"),
        pytest.param({"CodeResponse": "\0"}, "unreadable", "failed", id="a code that SQL cannot hold"),
        pytest.param({"CodeResult": "1\x1b[2J"}, "unreadable", "failed", id="a code that clears a terminal"),
        pytest.param({"CodeResult": "104\r\nforged"}, "unreadable", "failed", id="a code that is two lines of a log"),
        pytest.param([{"CodeResponse": "100"}], "unreadable", "failed", id="a list"),
        pytest.param(b"<html>", "unreadable", "failed", id="HTML"),
        pytest.param(b"", "unreadable", "failed", id="nothing"),
        pytest.param(b'{"CodeResponse":"100","x":' + b"[" * 100_000, "unreadable", "failed", id="deep nesting"),
    ],
)
def test_an_answer_is_read_however_it_is_put(content: Any, code: str, kind: str) -> None:
    answer = lookup(content)

    assert (answer.reference_id, answer.code, answer.kind, answer.answered) == ("a", code, kind, True)
    assert (answer.report is not None) == (code in {"100", "99"})


def test_a_lookup_says_what_a_callback_says_in_the_same_words() -> None:
    content = {"CodeResponse": "100", "CallStatus": "NO ANSWER", "CallDuration": "7", "Ivr": 1, "SentResult": None}

    assert said_in_lookup(content) == {"call_status": "NOANSWERED", "call_duration": 7, "ivr": "1"}


# Values


@pytest.mark.parametrize(
    ("parameter", "value", "read"),
    [
        ("CallDuration", "0", 0),
        ("CallDuration", "2147483647", 2_147_483_647),
        ("CallDuration", 2_147_483_647, 2_147_483_647),
        ("CallDuration", "0" * 5000 + "13", 13),
        ("CallDuration", "13.0", 13),
        ("CallDuration", 13.0, 13),
        ("CallDuration", "0.00", 0),
        ("SendStatus", 5.0, 5),
        ("SendStatus", "32767", 32_767),
        ("SentResult", "32767", 32_767),
        ("Price", "9999999999.9999", Decimal("9999999999.9999")),
        ("Price", "0", Decimal(0)),
        ("Price", "0" * 5000 + "1.5", Decimal("1.5")),
        ("CallStatus", "x" * 200, "X" * 200),
        ("Ivr", " " + "9" * 200 + " ", "9" * 200),
        ("CID", "č" * 200, "č" * 200),
        ("phonenumber", 901888484, "901888484"),
    ],
)
def test_a_value_within_its_bounds_is_read(parameter: str, value: Any, read: Any) -> None:
    report = saying(**{parameter: value})

    assert (list(report.said().values()), report.unread) == ([read], None)


NO_NUMBER: list[Any] = [
    *("-1", -1, "+1", "1e3", "1E3", "1_0", "0x1", "1 0", "13s", ".5", "5.", "1,5", "1.2.3", "NaN", "Infinity"),
    *("\u0663", "\uff11", "\u00b2", "9" * 5000, True, False, [5], {"a": 5}),
]
BEYOND_BOUNDS: dict[str, list[Any]] = {
    "CallDuration": [*NO_NUMBER, "2147483648", 2_147_483_648, "-0", "1.01", 1.5],
    "SendStatus": [*NO_NUMBER, "32768", "32768.0", "-5.0", "done"],
    "SentResult": [*NO_NUMBER, "32768", "true"],
    "SendSuccess": [*NO_NUMBER, "many"],
    "SendFailed": [*NO_NUMBER, "1.5"],
    "Price": [*NO_NUMBER, "10000000000", "9999999999.99991", "0.00001", "450 VND"],
    "TotalPrice": ["470 VND", [470]],
    "CallStatus": ["x" * 201, "\u00df" * 101, "\0", "\ud800", True, ["ANSWERED"]],
    "Ivr": ["9" * 201, "1\0", "\udcff", False, {}],
    "CID": ["9" * 201, [], True],
    "RequestId": ["9" * 201, "\0", "a\tb", "a\x1b[2J", "a\u009b"],
    "phonenumber": ["9" * 201, "\udfff"],
}


@pytest.mark.parametrize(
    ("parameter", "value"), [(name, value) for name, values in BEYOND_BOUNDS.items() for value in values], ids=ascii_id
)
def test_a_value_beyond_its_bounds_counts_as_not_said_and_is_named(parameter: str, value: Any) -> None:
    report = saying(**{parameter: value})

    assert (report.said(), report.unread) == ({}, parameter)
    assert payload(report)[parameter] == value


def test_what_cannot_be_read_is_named_once_each_and_costs_nothing_else() -> None:
    report = saying(SendStatus="?", CallDuration="?", price="?", CID="1", Unknown=[None])

    assert (report.said(), report.unread) == ({"cid": "1"}, "CallDuration,SendStatus,Price")


@pytest.mark.parametrize(
    ("query", "unread"),
    [
        ("ReferenceId=a&amp;Ivr=1&amp;Price=", "amp;Ivr"),
        ("ReferenceId=a&b,%00c=1&%2C=2&=3", "bc"),
        ("ReferenceId=a&amp;Ivr=1&Ivr=2", None),
    ],
)
def test_a_callback_that_says_nothing_known_names_its_unknown_parameters(query: str, unread: str | None) -> None:
    assert callback(query).unread == unread


def test_another_parameter_of_the_same_meaning_stands_in_for_one_that_cannot_be_read() -> None:
    report = callback("SMSID=a&SentResult=?&SendSuccess=1&Price=?&TotalPrice=470")

    assert (report.said(), report.unread) == ({"sent_result": 1, "price": Decimal(470)}, "SentResult,Price")


# Parameters that come several times


def test_the_first_value_that_is_not_blank_counts_and_all_are_kept() -> None:
    report = callback("ReferenceId=&ReferenceId=A&Ivr=+&Ivr=2&ivr=3", "ReferenceId=a&Ivr=&CID=1&CID=2", FORM)

    assert report.said() == {"ivr": "2", "cid": "1"}
    assert payload(report) == {"ReferenceId": ["a", "", "A"], "Ivr": ["", " ", "2"], "CID": ["1", "2"], "ivr": "3"}


def test_a_first_value_that_cannot_be_read_is_not_made_up_for_by_a_second() -> None:
    report = callback("ReferenceId=a&CallDuration=x&CallDuration=5")

    assert (report.said(), report.unread) == ({}, "CallDuration")


def test_duplicate_keys_of_a_json_object_are_all_kept_and_the_first_counts() -> None:
    report = callback("", '{"ReferenceId":"a","Ivr":null,"Ivr":"1","Ivr":["2"]}', JSON)

    assert report.said() == {"ivr": "1"}
    assert payload(report)["Ivr"] == [None, "1", ["2"]]


# Identities


@pytest.mark.parametrize(
    "identity", ["a", "!", "~", "x" * 128, "'OR/**/1=1;--", "a/b?c#d%", "\u00a0a\u2003"], ids=ascii
)
def test_an_identity_is_any_visible_ascii_up_to_128_characters(identity: str) -> None:
    assert callback(urlencode({"ReferenceId": identity})).reference_id == identity.strip().lower()


@pytest.mark.parametrize(
    "identity",
    ["x" * 129, "a b", "a\tb", "a\0", "\u212a", "é", "\uff11", "\x7f", "a\u200b", "\udcff", True, [], {"a": 1}, "1\n2"],
    ids=ascii_id,
)
@pytest.mark.parametrize("name", ["ReferenceId", "SMSID"])
def test_another_identity_is_refused_by_its_name(identity: Any, name: str) -> None:
    with pytest.raises(Unreadable, match=f"^{name}: must have 1 to 128 visible ASCII characters$"):
        callback(body=json.dumps({name: identity}), kind=JSON)


def test_the_kelvin_sign_is_not_the_letter_k() -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        parameters.normalise_identity("\u212a")
    assert parameters.normalise_identity("K") == "k"


@pytest.mark.parametrize(
    ("query", "reference_id", "unread"),
    [
        ("SMSID=b&ReferenceId=a", "a", None),
        ("ReferenceId=&SMSID=b", "b", None),
        ("ReferenceId=a%20c&SMSID=b", "b", "ReferenceId"),
        ("ReferenceId=a&SMSID=%ff", "a", "SMSID"),
        ("ReferenceId=A&referenceid=+a", "a", None),
        ("ReferenceId=123", "123", None),
    ],
)
def test_of_two_identities_reference_id_wins_if_it_can_be_read(
    query: str, reference_id: str, unread: str | None
) -> None:
    report = callback(query)

    assert (report.reference_id, report.unread) == (reference_id, unread)


@pytest.mark.parametrize("name", ["ReferenceId", "SMSID"])
@pytest.mark.parametrize("other", ["b", "a%20b", "%ff"])
def test_one_identity_parameter_with_two_values_is_unreadable(name: str, other: str) -> None:
    with pytest.raises(Unreadable, match=f"^{name}: is given twice, with different values$"):
        callback(f"ReferenceId=a&{name}={other}", f"{name.upper()}=a", FORM)


def test_a_number_is_an_identity_to_its_last_digit() -> None:
    digits = "12345678901234567890123456789.10"

    assert callback("", f'{{"ReferenceId": {digits}}}', JSON).reference_id == digits
    assert callback("", '{"ReferenceId": 7}', JSON).reference_id == "7"


# What is no report


PART = 'Content-Disposition: form-data; name="ReferenceId"'
"""A multipart form's header."""


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("", None, "ReferenceId: is missing"),
        ("CallStatus=ANSWERED", FORM, "ReferenceId: is missing"),
        ('{"ReferenceId": null}', JSON, "ReferenceId: is missing"),
        ('{"ReferenceId": "a"', JSON, "body: is broken JSON"),
        ('{"ReferenceId": "a"} x', JSON, "body: is broken JSON"),
        ("{ReferenceId=a}", FORM, "body: is broken JSON"),
        ("ReferenceId=a", "text/json; charset=utf-8", "body: is broken JSON"),
        ('[{"ReferenceId": "a"}]', JSON, "body: must be one JSON object"),
        ('"a"', "application/vnd.esms+json", "body: must be one JSON object"),
        ("NaN", JSON, "body: must be one JSON object"),
        ('{"x":' * 102 + "1" + "}" * 102, JSON, "body: is nested too deeply"),
        ('{"x":' * 1500 + "1" + "}" * 1500, JSON, "body: is nested too deeply"),
        ('{"x":' + "[" * 1500 + "]" * 1500 + "}", JSON, "body: is nested too deeply"),
        ("ReferenceId=a", "multipart/form-data", "body: is a broken multipart form"),
        (
            "--b\r\nContent-Disposition: form-data\r\n\r\nx",
            "multipart/x; boundary=b",
            "body: is a broken multipart form",
        ),
        ("--b\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b", "body: is a broken multipart form"),
        ("--b--", f"multipart/form-data; boundary=b;{' ' * 1000}", "body: is a broken multipart form"),
        (f"--b\r\n{PART}\r\n\r\nx\r\n" * 1001, "multipart/x; boundary=b", "body: has more than 1000 fields"),
        ("&".join(f"{place}=" for place in range(1001)), FORM, "body: has more than 1000 fields"),
        (json.dumps(dict.fromkeys(map(str, range(1001)))), JSON, "body: has more than 1000 fields"),
        ("x" * (esms_callback.BODY_LIMIT + 1), FORM, "body: is over 64 KiB"),
    ],
    ids=ascii_id,
)
def test_what_is_no_report_is_refused_in_words_for_the_sender(body: str, kind: str | None, reason: str) -> None:
    with pytest.raises(Unreadable, match=f"^{reason}"):
        callback("", body, kind)


@pytest.mark.parametrize("kind", [FORM, JSON, "multipart/form-data; boundary=b"])
def test_1000_fields_are_read(kind: str) -> None:
    names = ["ReferenceId", *map(str, range(999))]
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\na\r\n'
    bodies = {FORM: urlencode(dict.fromkeys(names, "a")), JSON: json.dumps(dict.fromkeys(names, "a"))}
    body = bodies.get(kind, "".join(map(part.format, names)) + "--b--")

    assert callback("", body, kind).reference_id == "a"
    with pytest.raises(Unreadable, match=r"^query: has more than 1000 fields"):
        callback("&".join(f"{place}=" for place in range(1001)), body, kind)


def test_a_body_of_64_kib_is_read() -> None:
    body = "ReferenceId=a&x=".ljust(esms_callback.BODY_LIMIT, "x")

    assert len(payload(callback("", body, FORM))["x"]) == esms_callback.BODY_LIMIT - len("ReferenceId=a&x=")


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(f"{PART}{';' * 60_000}\n\na", id="semicolons of a name"),
        pytest.param(f'Content-Type: multipart/mixed; boundary="{";" * 60_000}"\n\n\n', id="of a boundary"),
        pytest.param(f"{PART}{';x' * 990}{'x' * 60_000}\n\na", id="all that are allowed"),
        pytest.param(f"{PART}{''.join(f';name*{place}*=x' for place in range(990))}\n\na", id="name*0*="),
        pytest.param(f"{PART}\n{' x' * 30_000}\n\na", id="a long line"),
        pytest.param(f"{PART}\n" + " x\n" * 20_000 + "\na", id="a folded line"),
        pytest.param("x:\n" * 20_000, id="header lines"),
        pytest.param("\n\n--b\n" * 10_000, id="parts"),
        pytest.param(
            "".join(f"Content-Type:multipart/a;boundary=b{place}\n\n--b{place}\n" for place in range(500))
            + "\n" * 40_000,
            id="parts within parts",
        ),
        pytest.param("Content-Type: message/delivery-status\n\n" + "\n" * 60_000, id="messages within a part"),
    ],
)
def test_no_multipart_form_takes_much_longer_to_read_than_an_honest_one_of_its_size(part: str) -> None:
    body = f"--b\n{PART}\n\nA\n--b\n{part}"
    assert len(body) <= esms_callback.BODY_LIMIT
    honest = f"--b\n{PART}\n\nA\n" * 900

    assert seconds_to_read(body) < 10 * seconds_to_read(honest)


def seconds_to_read(body: str) -> float:
    """How long this thread works on a multipart form: the shortest of three times."""

    def once() -> float:
        began = time.thread_time()
        with suppress(Unreadable):
            callback("", body, "multipart/form-data; boundary=b")
        return time.thread_time() - began

    return min(once() for _ in range(3))


# The request is kept


@pytest.mark.parametrize(
    ("query", "name", "kept"),
    [
        (b"n=%00", "n", b"\0"),
        (b"n=\xff%fe", "n", b"\xff\xfe"),
        (b"%ff=1", "\udcff", b"1"),
        (b"n=%C3%A9%F0%9F%93%9E", "n", "é📞".encode()),
        (b"n=%5Cudcff", "n", rb"\udcff"),
        (b"n=a+b%2B", "n", b"a b+"),
        (b"n", "n", b""),
        (b"&&n=1=2&", "n", b"1=2"),
    ],
)
def test_the_payload_keeps_bytes_that_sql_text_cannot_hold(query: bytes, name: str, kept: bytes) -> None:
    value = payload(callback(b"ReferenceId=a&" + query))[name]

    assert value.encode("utf-8", "surrogateescape") == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1" * 5000, "1" * 5000),
        ("-0", "-0"),
        ("470.0", 470.0),
        ("-450.1", -450.1),
        ("450.1000", "450.1000"),
        ("0.10000000000000000001", "0.10000000000000000001"),
        ("1E5", "1E5"),
        ("1e999", "1e999"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        (r'"\ud83d\udcde \ud800"', "📞 \ud800"),
        ('{"b":[1.10,{"c":null}]}', {"b": ["1.10", {"c": None}]}),
        ("[[],[[]]]", [[], [[]]]),
    ],
)
def test_the_payload_keeps_json_values_to_the_last_digit(text: str, kept: Any) -> None:
    report = callback("", f'{{"ReferenceId":"a","x":{text}}}', JSON)

    assert payload(report) == {"ReferenceId": "a", "x": kept}


@QUICK
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_stored_request_gives_its_bytes_back(query: bytes, body: bytes) -> None:
    kept = esms_callback.storable_request(query, body)

    assert "\0" not in kept
    assert esms_callback.stored_request(kept.encode().decode()) == (query, body)


@pytest.mark.parametrize("query_length", [0, 10, esms_callback.BODY_LIMIT, esms_callback.BODY_LIMIT + 1])
def test_a_stored_request_is_the_first_64_kib_of_query_and_body(query_length: int) -> None:
    query, body = b"q" * query_length, "é".encode() * esms_callback.BODY_LIMIT

    kept = json.loads(esms_callback.storable_request(query, body))
    kept_query, kept_body = (kept[name].encode("utf-8", "surrogateescape") for name in ("query", "body"))
    assert kept_query + kept_body == (query + body)[: esms_callback.BODY_LIMIT]
    assert query.startswith(kept_query)


def test_a_request_that_was_cut_is_not_read_again() -> None:
    """Its last value may be another than was said."""
    for kept in (
        esms_callback.storable_request(b"", b"x" * (esms_callback.BODY_LIMIT + 1)),
        esms_callback.storable_request(b"", b"x", whole=False),
    ):
        with pytest.raises(parameters.Unreadable, match="body: was not kept whole"):
            esms_callback.stored_request(kept)


@pytest.mark.parametrize("kept", ["", "[]", "null", '{"query": ""}', '{"query": 1, "body": ""}'])
def test_what_is_no_kept_request_is_a_value_error(kept: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of whichever kind
        esms_callback.stored_request(kept)


# Whatever comes

KINDS = st.one_of(
    st.sampled_from([None, FORM, JSON, "text/plain", "multipart/form-data; boundary=b", "multipart/mixed"]),
    st.text(max_size=30).map("multipart/form-data; boundary=b; ".__add__),
    st.text(max_size=30),
)
NAMES = st.one_of(
    st.sampled_from(["ReferenceId", "SMSID", "CodeResponse", "SendStatus", "CallDuration", "Price", "Ivr"]), st.text()
)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(codec=None, exclude_categories=())),
        st.sampled_from(["100", "99", "a", "5", "0.0000"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
JSON_TEXTS = st.dictionaries(NAMES, JSON_VALUES, max_size=5).map(lambda value: json.dumps(value).encode())
FORMS = st.dictionaries(NAMES, st.text(max_size=5), max_size=5).map(lambda pairs: urlencode(pairs).encode())
PARTS = st.lists(st.binary(max_size=40), max_size=3).map(
    lambda parts: b"".join(b"--b\r\nContent-Disposition: form-data; name" + part + b"\r\n\r\n1\r\n" for part in parts)
)
BODIES = st.one_of(st.binary(max_size=100), JSON_TEXTS, FORMS, PARTS, PARTS.map(lambda body: body + b"--b--"))


def well_formed(report: StatusReport) -> bool:
    """Whether a database of either kind can hold it."""
    texts = [value for name in FIELDS if isinstance(value := getattr(report, name), str)]
    kept = [report.reference_id, report.payload, report.unread or "", *texts]
    return payload(report) is not None and all(text.encode().find(b"\0") < 0 for text in kept)


@QUICK
@given(st.one_of(st.binary(max_size=50), FORMS, st.just(b"ReferenceId=a")), BODIES, KINDS)
def test_any_request_is_a_report_or_unreadable(query: bytes, body: bytes, kind: str | None) -> None:
    with suppress(Unreadable):
        assert well_formed(callback(query, body, kind))


@QUICK
@given(st.one_of(BODIES, JSON_VALUES.map(lambda value: json.dumps(value).encode())))
def test_anything_that_getsendstatus_answers_is_an_answer(content: bytes) -> None:
    answer = lookup(content)

    assert answer.code.encode()
    assert answer.report is None or well_formed(answer.report)
    assert (answer.report is not None) == (answer.code in {"100", "99"})


@QUICK
@given(st.text(max_size=20))
def test_a_normalised_word_is_its_own_normal_form(text: str) -> None:
    status = parameters.normalise_status(text)
    assert parameters.normalise_status(status) == status
    try:
        identity = parameters.normalise_identity(text)
    except ValueError:
        return
    assert parameters.normalise_identity(identity) == identity == identity.lower()
