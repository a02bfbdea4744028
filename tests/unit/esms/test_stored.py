"""What a stored report is read as again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW

from webapp.esms import parameters
from webapp.esms.callback import parse_callback
from webapp.esms.stored import other_channel_of, read_again, stored_report

if TYPE_CHECKING:
    from webapp.calls.report import StatusReport


def received(query: str = "", **body: Any) -> StatusReport:
    """The report in a callback with this query string and this JSON body."""
    content = json.dumps(body).encode() if body else b""
    return parse_callback(query.encode(), content, None, report_id=parameters.new_id(), received_at=NOW, remote_addr="")


def stored(report: StatusReport) -> StatusReport:
    """The same report, as its row says it."""
    return stored_report({name: value for name, value in asdict(report).items() if name not in NO_COLUMN})


NO_COLUMN = {"final", "kind", "esms_id"}


@pytest.mark.parametrize(
    "body",
    [
        {"ReferenceId": "a", "SendStatus": 5, "SendSuccess": [0], "SendFailed": [0]},
        {"ReferenceId": "a", "CallStatus": ["ANSWERED"], "SendStatus": 7, "Ivr": ["1"], "Price": True},
        {"ReferenceId": ["A"], "SMSID": "b", "CallStatus": "BUSY"},
        {"ReferenceId": "a", "CallStatus": "BUSY", "TypeId": [None]},
        {"SMSID": "a", "SendStatus": 5, "TypeId": [2]},
        {"SMSID": "a", "SendStatus": 5, "TypeId": [2, 3]},
        {"ReferenceId": "a", "SendStatus": 5, "TypeId": [None, ""]},
        {"ReferenceId": "a", "CallStatus": "BUSY", "Ivr": []},
    ],
)
def test_a_json_list_is_no_value_when_a_report_is_read_again_either(body: dict[str, Any]) -> None:
    report = received(**body)

    assert stored(report) == report
    assert read_again(report) == report


def test_a_list_of_several_values_that_could_not_be_read_never_unsettles_a_call() -> None:
    report = received(ReferenceId="a", SendStatus=5, SendSuccess=[0, 0], SendFailed=[0, 0])

    assert (report.final, report.unread) == (True, "SendSuccess,SendFailed")
    assert stored(report) == report


def test_a_json_list_of_several_values_is_not_read_again_as_one_that_was_repeated() -> None:
    report = received(ReferenceId="a", SendStatus=5, Ivr=["1", "2"])

    assert read_again(report) == report


def test_a_value_that_was_repeated_or_left_blank_another_time_is_read_again() -> None:
    report = received("ReferenceId=a&Ivr=1&Ivr=&CallDuration=7&CallDuration=7")
    unread = replace(report, ivr=None, call_duration=None, unread="CallDuration,Ivr")

    assert read_again(unread) == report


@pytest.mark.parametrize(("type_id", "channel"), [("8", None), ("2", "2")])
def test_a_reference_id_that_cannot_be_read_counts_as_not_said_also_for_the_form(
    type_id: str, channel: str | None
) -> None:
    report = received(f"ReferenceId=%C3%A9&SMSID=a&SendStatus=5&TypeId={type_id}")

    assert (report.kind, report.unread, other_channel_of(report)) == ("otp", "ReferenceId", channel)
    assert received("ReferenceId=%C3%A9&SMSID=a&SendStatus=5").kind == "otp"


def test_a_type_id_that_cannot_be_read_makes_no_other_channel_and_is_named() -> None:
    report = received(SMSID="a", SendStatus=5, TypeId=[2, 3])

    assert other_channel_of(report) is None
    assert report.unread == "TypeId"


@pytest.mark.parametrize(
    "query",
    [
        "SMSID=A&SMSID=a&SendStatus=5&SendSuccess=&SendSuccess=0&SendFailed=0",
        "ReferenceId=a&Price=1&Price=x",
        "ReferenceId=a&SendStatus=5&SendFailed=0&SendSuccess=&SENDSUCCESS=0&SendSuccess=1",
        "ReferenceId=&referenceid=A&ReferenceId=a&CallStatus=BUSY",
        "ReferenceId=a&b=&c=1&b=2",
    ],
)
def test_of_a_repeated_name_the_first_value_counts_again(query: str) -> None:
    report = received(query)

    assert stored(report) == report
    assert read_again(report) == report
