"""What a stored report is read as again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW

from webapp.esms import parameters
from webapp.esms.callback import parse_callback
from webapp.esms.stored import read_again, stored_report

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


@pytest.mark.parametrize(
    "query", ["SMSID=A&SMSID=a&SendStatus=5&SendSuccess=&SendSuccess=0&SendFailed=0", "ReferenceId=a&Price=1&Price=x"]
)
def test_of_a_repeated_name_the_first_value_counts_again(query: str) -> None:
    report = received(query)

    assert stored(report) == report
    assert read_again(report) == report
