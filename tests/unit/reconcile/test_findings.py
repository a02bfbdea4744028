"""How eSMS's answer compares with a settled call: only where both say something."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from makers import NOW, lookup

from webapp.calls.rule import Call
from webapp.esms.lookup import LOOKUP_FIELDS
from webapp.reconcile.findings import compare

STORED = Call(
    reference_id="a",
    placed_at=NOW,
    call_status="ANSWERED",
    call_duration=13,
    ivr="1",
    send_status=5,
    sent_result=1,
    price=Decimal("450.0000"),
    cid="02871002454",
    settled_at=NOW,
)
TRUE = {name: getattr(STORED, name) for name in LOOKUP_FIELDS}


@pytest.mark.parametrize(
    ("said", "kind", "fields"),
    [
        ({}, "agree", []),
        *(({name: None}, "agree", []) for name in LOOKUP_FIELDS if name != "call_status"),
        ({"call_status": "NOANSWERED"}, "disagree", ["call_status"]),
        ({"call_duration": 14}, "disagree", ["call_duration"]),
        ({"ivr": "01"}, "disagree", ["ivr"]),
        ({"send_status": 4}, "disagree", ["send_status"]),
        ({"sent_result": 0}, "disagree", ["sent_result"]),
        ({"call_duration": 0, "ivr": "2", "sent_result": None}, "disagree", ["call_duration", "ivr"]),
        ({"send_status": 7}, "disagree", ["send_status"]),
        ({"send_status": 7, "call_status": None, "call_duration": 0, "sent_result": 0}, "disagree", ["send_status"]),
        (dict.fromkeys(LOOKUP_FIELDS), "undecided", []),
        (dict.fromkeys(LOOKUP_FIELDS) | {"lookup_code": "99"}, "undecided", []),
        ({"lookup_code": "99", "call_status": "BLOCKED"}, "disagree", ["call_status"]),
    ],
    ids=str,
)
def test_an_answer_is_compared_where_both_say_something(said: dict[str, Any], kind: str, fields: list[str]) -> None:
    verdict = compare(STORED, lookup("a", **(TRUE | said)))

    assert (verdict.kind, list(verdict.differing)) == (kind, fields)
    assert set(verdict.differing) <= set(verdict.compared)


@pytest.mark.parametrize("name", LOOKUP_FIELDS)
def test_what_only_esms_says_is_named_and_disagrees_if_the_outcome_is_another_with_it(name: str) -> None:
    absent: dict[str, Any] = {name: None}

    verdict = compare(replace(STORED, **absent), lookup("a", **TRUE))

    assert (verdict.more, set(verdict.compared)) == ((name,), {*LOOKUP_FIELDS} - {name})
    assert (verdict.kind, verdict.differing) == (
        ("disagree", ("call_status",)) if name == "call_status" else ("agree", ())
    )


def test_a_call_that_was_settled_without_any_outcome_disagrees_with_esms_if_esms_says_one() -> None:
    empty: dict[str, Any] = dict.fromkeys(LOOKUP_FIELDS)

    verdict = compare(replace(STORED, **empty), lookup("a", **TRUE))

    assert (verdict.kind, set(verdict.differing), verdict.compared) == ("disagree", {*LOOKUP_FIELDS}, ())


def test_the_published_failed_call_agrees_with_its_look_up() -> None:
    stored = replace(STORED, call_status=None, call_duration=0, ivr=None, sent_result=0)

    verdict = compare(stored, lookup("a", call_status="NOANSWERED", call_duration=0, sent_result=0, send_status=5))

    assert (verdict.kind, verdict.more) == ("agree", ("call_status",))


def test_an_answer_that_is_not_final_about_a_call_without_a_send_status_decides_nothing() -> None:
    verdict = compare(replace(STORED, send_status=None), lookup("a", **(TRUE | {"send_status": 2})))

    assert (verdict.kind, verdict.compared) == ("undecided", ())


def test_a_call_that_was_settled_without_a_send_status_of_its_own_disagrees_if_esms_says_that_it_is_not_over() -> None:
    """Its send_status is left from a progress report, so the two may be the same."""
    verdict = compare(replace(STORED, send_status=7), lookup("a", **(TRUE | {"send_status": 7})))

    assert (verdict.kind, verdict.differing) == ("disagree", ("send_status",))
