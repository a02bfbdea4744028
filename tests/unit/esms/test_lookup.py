"""Reading answers of GetSendStatus: one call, one word for each thing; what says two things is unreadable."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from makers import NOW

from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer, parse_lookup

VOICE = {
    "CallDuration": 13,
    "CallStatus": "ANSWERED",
    "CodeResponse": "100",
    "Ivr": "",
    "ReferenceId": "505139D7-54F8-48A9-88FA-9460A78731DD",
    "SendStatus": 5,
    "SentResult": 1,
}
"""*documented*: the page's example."""
OTP = {
    "CodeResponse": "100",
    "SMSID": "505139D7-54F8-48A9-88FA-9460A78731DD",
    "SendFailed": 0,
    "SendStatus": 5,
    "SendSuccess": 1,
    "TotalPrice": 470.0,
    "TotalReceiver": 1,
    "TotalSent": 1,
}
"""*documented*: the message API's."""
ID = "505139d7-54f8-48a9-88fa-9460a78731dd"


def parsed(content: str | dict[str, Any]) -> LookupAnswer:
    text = content if isinstance(content, str) else json.dumps(content)
    return parse_lookup(ID, text.encode(), report_id=parameters.new_id(), received_at=NOW)


def test_the_published_answer_of_a_voice_call() -> None:
    report = parsed(VOICE).report
    assert report is not None
    assert (report.final, report.kind, report.esms_id) == (True, "voice", VOICE["ReferenceId"])
    assert (report.call_status, report.call_duration, report.sent_result, report.price) == ("ANSWERED", 13, 1, None)


def test_the_published_answer_of_a_voice_otp() -> None:
    report = parsed(OTP).report
    assert report is not None
    assert (report.final, report.kind, report.esms_id) == (True, "otp", OTP["SMSID"])
    assert (report.call_status, report.sent_result, report.price) == (None, 1, Decimal("470.0000"))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"SendSuccess": 0, "SendFailed": 1}, "final"),
        ({"SendSuccess": 0, "SendFailed": 0}, "pending"),
        ({"SendStatus": 7, "SendSuccess": 0}, "pending"),
        ({"SendStatus": 6, "SendSuccess": 0}, "final"),
        ({"SMSID": "another"}, "failed"),
        ({"SMSID": ID.upper() + " "}, "final"),
        ({"SMSID": None}, "final"),
        ({"CodeResponse": "105"}, "not_found"),
        ({"CodeResponse": "101", "SMSID": "another"}, "failed"),
    ],
)
def test_what_an_answer_of_the_message_api_means(changes: dict[str, Any], kind: str) -> None:
    assert parsed(OTP | changes).kind == kind


@pytest.mark.parametrize(
    "content",
    [
        '{"CodeResponse": "100", "ReferenceId": "%s", "ReferenceId": "other"}',
        '{"CodeResponse": "100", "ReferenceId": "%s", "ReferenceId": "%s"}',
        '{"CodeResponse": "100", "ReferenceId": "%s", "referenceid": "other"}',
        '{"CodeResponse": "100", "CodeResponse": "104", "ReferenceId": "%s"}',
        '{"CodeResponse": "100", "CallStatus": "ANSWERED", "CallStatus": "NOANSWERED"}',
        '{"CodeResponse": "100", "CallStatus": "ANSWERED", "callstatus ": ""}',
        '{"CodeResponse": "100", "CallDuration": NaN}',
        '{"CodeResponse": "100", "TotalPrice": Infinity, "SMSID": "%s"}',
        '{"CodeResponse": "100", "Unknown": [-Infinity]}',
        '{"CodeResponse": "100", "Unknown": {"a": 1, "A": 2}}',
    ],
)
def test_a_repeated_key_and_a_number_that_is_none_are_unreadable(content: str) -> None:
    answer = parsed(content.replace("%s", ID))
    assert (answer.code, answer.report, answer.answered) == ("unreadable", None, True)


@pytest.mark.parametrize(
    ("identities", "code"),
    [
        ({"ReferenceId": ID.upper(), "SMSID": f" {ID} "}, "100"),
        ({"ReferenceId": ID, "SMSID": "another"}, "100"),
        ({"ReferenceId": "another", "SMSID": ID}, "wrong-reference"),
        ({"ReferenceId": "", "SMSID": ID}, "100"),
        ({"ReferenceId": None, "SMSID": "another"}, "wrong-reference"),
        ({"SMSID": "x" * 200}, "100"),
    ],
)
def test_reference_id_counts_where_both_identities_are_said(identities: dict[str, Any], code: str) -> None:
    assert parsed({**VOICE, "ReferenceId": None} | identities).code == code


@pytest.mark.parametrize("code", ["99", 99])
def test_99_without_fields_decides_nothing(code: object) -> None:
    answer = parsed({"CodeResult": code, "CountRegenerate": 0, "ErrorMessage": "Try again later"})
    assert (answer.code, answer.kind) == ("99", "pending")


def test_99_with_fields_is_read() -> None:
    answer = parsed(VOICE | {"CodeResponse": "99", "CallStatus": "NOANSWERED"})
    assert (answer.code, answer.kind) == ("99", "final")
