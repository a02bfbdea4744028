"""The rule: a case for each of its sentences, and whatever the order of writing, one and the same call."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from itertools import permutations
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from constants import sized
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import NOW, any_of, at, by_reports, callback, fold_of, lookup, report_with

from webapp.calls import lookup_schedule, rule
from webapp.calls.report import EFFECTS, FIELDS, FIRST_SAID, OUTCOME_FIELDS, StatusReport
from webapp.calls.rule import Call, Registration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from webapp.calls.report import Effect

LATER = NOW + timedelta(days=1)
IN_5_MINUTES = LATER + timedelta(minutes=5)
ANSWERED = {"call_status": "ANSWERED"}
NOT_ANSWERED = {"call_status": "NOANSWERED"}
WAITING = {"send_status": 2}
SENT = {"send_status": 7}
DONE = {"send_status": 5}


class Row:
    """One call in memory, written as the store writes its row: folded onto it, or its history folded anew."""

    def __init__(self, first_seen: datetime) -> None:
        self.call = Call(reference_id="a", placed_at=first_seen)
        self.history: dict[UUID, StatusReport] = {}

    def take(self, report: StatusReport, now: datetime = LATER) -> Effect | None:
        """Store one report; its effect, or None if it was stored already."""
        if report.id in self.history:
            return None
        before = self.call
        if rule.row_decides(before, report):
            after = rule.fold(before, report)
        else:
            after = rule.fold_all(before, [*self.history.values(), report])
        self.history[report.id] = report
        self.call = lookup_schedule.plan(before, after, now)
        return rule.effect(before, report, self.call)


def stored(*reports: StatusReport) -> Row:
    """The row after these reports came, one after the other."""
    row = Row(reports[0].received_at)
    for report in reports:
        row.take(report)
    return row


def differences(one: Call, other: Call) -> set[str]:
    return {field.name for field in fields(Call) if getattr(one, field.name) != getattr(other, field.name)}


# Final


@pytest.mark.parametrize(
    ("report", "final"),
    [
        (callback("a", send_status=5), True),
        (callback("a", send_status=4), True),
        (callback("a", send_status=6), True),
        *((callback("a", send_status=other), False) for other in (0, 1, 2, 3, 7)),
        (callback("a", send_status=7, call_status="ANSWERED"), False),
        (callback("a", call_status="ANSWERED"), True),
        (callback("a", call_duration=13, ivr="1", sent_result=1), True),
        (callback("a", call_duration=13, ivr="1"), False),
        (callback("a", send_status=7, sent_result=0), False),
        (callback("a"), False),
        (lookup("a", lookup_code="99"), False),
        (lookup("a", lookup_code="99", send_status=7), False),
        (lookup("a", lookup_code="99", send_status=5), True),
        (lookup("a", lookup_code="99", call_status="NOANSWERED"), True),
        (lookup("a", lookup_code="100"), False),
        (lookup("a", lookup_code="100", send_status=5), True),
        (lookup("a", lookup_code="100", call_status="ANSWERED"), True),
        (lookup("a", lookup_code="100", send_status=2, call_status="ANSWERED"), False),
    ],
)
def test_a_report_is_final_as_the_contract_says(report: StatusReport, final: bool) -> None:  # noqa: FBT001
    assert report.final is final
    assert fold_of([report]).settled is final


@pytest.mark.parametrize("source", [callback, lookup])
def test_late_progress_changes_only_the_counts_of_a_settled_call(source: Any) -> None:
    settled = fold_of([callback("a", 1, **ANSWERED, call_duration=7)])
    late = source("a", 2, **SENT, **NOT_ANSWERED, call_duration=9, ivr="1", price=Decimal(1), cid="1", phone="0")

    assert differences(settled, rule.fold(settled, late)) == {"report_count", "last_reported_at"}


# Who is believed


@pytest.mark.parametrize(
    ("reports", "believed"),
    [
        pytest.param(
            [callback("a", 1, **SENT, cid="1"), callback("a", 2, **SENT)],
            {"send_status": 7, "cid": "1"},
            id="what is not said erases nothing",
        ),
        pytest.param(
            [callback("a", 1, **WAITING), callback("a", 2, **SENT)],
            {"send_status": 7},
            id="of progress reports the newest wins",
        ),
        pytest.param(
            [callback("a", 1, **SENT, call_duration=0, cid="1"), callback("a", 2, **DONE)],
            {"send_status": 5, "call_duration": 0, "cid": "1"},
            id="what progress reports said survives a poor final one",
        ),
        pytest.param(
            [callback("a", 1, **DONE), callback("a", 2, **SENT, call_duration=3, cid="1")],
            {"send_status": 5, "call_duration": None, "cid": None},
            id="a progress report after the final one says nothing",
        ),
        pytest.param(
            [callback("a", 1, **SENT, **NOT_ANSWERED, cid="1"), callback("a", 2, **ANSWERED, cid="2")],
            {"call_status": "ANSWERED", "send_status": 7, "cid": "2"},
            id="a final report beats one that is not",
        ),
        pytest.param(
            [callback("a", 1, **ANSWERED, call_duration=1), callback("a", 2, **ANSWERED, call_duration=2)],
            {"call_duration": 2},
            id="of final callbacks the newest wins",
        ),
        pytest.param(
            [
                lookup("a", 1, **ANSWERED, call_duration=1, ivr="1"),
                callback("a", 2, **NOT_ANSWERED, call_duration=2, ivr="2", price=Decimal(1), cid="1"),
            ],
            {"call_status": "ANSWERED", "call_duration": 1, "ivr": "1", "price": Decimal(1), "cid": "1"},
            id="a callback adds price and cid to what a lookup settled, and nothing else",
        ),
        pytest.param(
            [callback("a", 1, **NOT_ANSWERED, call_duration=2, ivr="2"), lookup("a", 2, **ANSWERED, call_duration=1)],
            {"call_status": "ANSWERED", "call_duration": 1, "ivr": "2"},
            id="a lookup beats a callback in what it says",
        ),
        pytest.param(
            [lookup("a", 1, **ANSWERED), callback("a", 2, **ANSWERED, call_duration=2), callback("a", 3, **DONE)],
            {"call_status": "ANSWERED", "call_duration": 2, "send_status": 5},
            id="a callback says what a lookup left unsaid",
        ),
        pytest.param(
            [callback("a", 1, **ANSWERED), lookup("a", 2, **ANSWERED, call_duration=2)],
            {"call_duration": 2},
            id="a lookup fills what a callback left unsaid",
        ),
        pytest.param(
            [lookup("a", 1, **ANSWERED, sent_result=1), callback("a", 2, **ANSWERED, sent_result=0)],
            {"sent_result": 1},
            id="sent_result is an outcome field",
        ),
        pytest.param(
            [lookup("a", 1, **DONE, phone="1"), callback("a", 2, send_status=4, phone="2")],
            {"send_status": 4, "phone": "2"},
            id="for the other fields the newest final report wins, whatever its source",
        ),
        pytest.param(
            [callback("a", 1, **ANSWERED, price=Decimal(450)), callback("a", 2, **ANSWERED, price=Decimal(99999))],
            {"price": Decimal(450), "price_conflict": True},
            id="the first price that agrees stands, and another one is a price conflict",
        ),
        pytest.param(
            [
                callback("a", 1, **ANSWERED, price=Decimal(450), cid="1"),
                callback("a", 2, **NOT_ANSWERED, price=Decimal(0), cid="2"),
                lookup("a", 3, **ANSWERED),
            ],
            {"price": Decimal(450), "cid": "1", "price_conflict": False},
            id="a refuted callback's price does not count while another agrees",
        ),
        pytest.param(
            [
                callback("a", 1, **NOT_ANSWERED, price=Decimal(0)),
                callback("a", 2, **ANSWERED, price=Decimal(450)),
            ],
            {"call_status": "ANSWERED", "price": Decimal(450), "price_conflict": False},
            id="a redial that was answered has its own price",
        ),
        pytest.param(
            [
                callback("a", 1, **NOT_ANSWERED, price=Decimal(1)),
                callback("a", 2, call_status="BUSY", price=Decimal(2)),
                lookup("a", 3, **ANSWERED),
            ],
            {"price": Decimal(2)},
            id="of prices that all disagree the newest counts",
        ),
        pytest.param(
            [
                callback("a", 1, **SENT, price=Decimal(1)),
                callback("a", 2, **SENT, price=Decimal(2)),
                lookup("a", 3, **DONE),
            ],
            {"price": Decimal(2)},
            id="without another word the newest price of progress counts",
        ),
        pytest.param(
            [
                callback("a", 1, **DONE, sent_result=1, price=Decimal(1)),
                callback("a", 2, **DONE, sent_result=1, price=Decimal(2)),
                lookup("a", 3, **DONE, price=Decimal(3)),
                lookup("a", 4, **DONE, price=Decimal(4)),
            ],
            {"price": Decimal(4), "price_conflict": False},
            id="a lookup's price beats all callbacks, and the newest lookup counts",
        ),
        pytest.param(
            [callback("a", 1, kind="otp", esms_id="AB", **SENT), callback("a", 2, kind="voice", esms_id="ab", **DONE)],
            {"kind": "otp", "esms_id": "AB"},
            id="kind and spelling are those of the first report",
        ),
        pytest.param(
            [lookup("a", 1, **ANSWERED, ivr="1"), lookup("a", 2, **NOT_ANSWERED)],
            {"call_status": "NOANSWERED", "ivr": "1"},
            id="of final lookups the newest wins",
        ),
        pytest.param(
            [lookup("a", 1, **SENT, **ANSWERED), callback("a", 2, **DONE, **NOT_ANSWERED)],
            {"call_status": "NOANSWERED"},
            id="a lookup that is not final beats nobody",
        ),
        pytest.param(
            [callback("a", 1, **ANSWERED), lookup("a", 2, lookup_code="99", **NOT_ANSWERED)],
            {"call_status": "NOANSWERED"},
            id="what a final lookup with code 99 says counts",
        ),
    ],
)
def test_each_field_follows_the_contract_in_every_order_of_writing(
    reports: list[StatusReport], believed: dict[str, Any]
) -> None:
    for order in permutations(reports):
        call = stored(*order).call
        assert {name: getattr(call, name) for name in believed} == believed


def test_the_first_report_of_one_moment_is_the_one_with_the_lower_id() -> None:
    first = callback("a", 1, id=UUID(int=1), **ANSWERED)
    second = callback("a", 1, id=UUID(int=2), **NOT_ANSWERED)

    assert stored(first, second).call.call_status == stored(second, first).call.call_status == "NOANSWERED"


def test_times_and_sources_are_those_of_the_reports_in_their_order() -> None:
    reports = [
        callback("a", 1, **SENT),
        lookup("a", 2, **DONE),
        callback("a", 3, **DONE),
        lookup("a", 4, **DONE),
        callback("a", 5, **DONE),
        lookup("a", 6, **SENT),
    ]
    for order in (reports, reversed(reports)):
        call = stored(*order).call
        assert (call.placed_at, call.settled_at, call.settled_by) == (at(1), at(2), "lookup")
        assert (call.callback_at, call.confirmed_at, call.last_reported_at) == (at(3), at(4), at(6))
        assert call.report_count == 6


# Conflict


@pytest.mark.parametrize(
    ("reports", "conflict"),
    [
        ([callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED)], True),
        ([callback("a", 1, **DONE, call_duration=1), callback("a", 2, **DONE, call_duration=2)], True),
        ([callback("a", 1, **DONE, ivr="1"), callback("a", 2, **DONE, ivr="*")], True),
        ([lookup("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED)], True),
        ([callback("a", 1, **SENT, ivr="1"), callback("a", 2, **DONE), callback("a", 3, **DONE, ivr="2")], True),
        ([callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED), callback("a", 3, **ANSWERED)], True),
        ([callback("a", 1, **ANSWERED), callback("a", 2, **ANSWERED)], False),
        ([callback("a", 1, **ANSWERED), callback("a", 2, **DONE, ivr="1")], False),
        ([callback("a", 1, **DONE, ivr="1"), callback("a", 2, **ANSWERED)], False),
        ([callback("a", 1, **DONE, price=Decimal(1), cid="1"), callback("a", 2, **DONE, price=Decimal(2))], False),
        ([callback("a", 1, **DONE, sent_result=1), callback("a", 2, send_status=4, sent_result=0)], True),
        ([callback("a", 1, **DONE, phone="1"), callback("a", 2, send_status=4, phone="2")], False),
        ([callback("a", 1, **SENT, **ANSWERED), callback("a", 2, **NOT_ANSWERED)], False),
        ([callback("a", 1, **ANSWERED), callback("a", 2, **SENT, **NOT_ANSWERED)], False),
        ([callback("a", 1, **ANSWERED), lookup("a", 2, **NOT_ANSWERED)], False),
        ([lookup("a", 1, **ANSWERED), lookup("a", 2, **NOT_ANSWERED)], False),
    ],
)
def test_a_final_callback_that_disagrees_with_a_settled_call_makes_a_conflict(
    reports: list[StatusReport], *, conflict: bool
) -> None:
    for order in permutations(reports):
        assert stored(*order).call.conflict is conflict


@pytest.mark.parametrize(
    ("later", "conflict"),
    [
        ([lookup("a", 3, **ANSWERED)], False),
        ([lookup("a", 3, **DONE)], False),
        ([lookup("a", 3, lookup_code="99")], True),
        ([lookup("a", 3, **SENT, **ANSWERED)], True),
        ([lookup("a", 1.5, **ANSWERED)], True),
        ([lookup("a", 3, **ANSWERED), callback("a", 4, **NOT_ANSWERED)], True),
        ([lookup("a", 3, **ANSWERED), callback("a", 4, **ANSWERED)], False),
    ],
)
def test_the_next_final_lookup_in_the_order_clears_a_conflict(later: list[StatusReport], *, conflict: bool) -> None:
    for order in permutations([callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED), *later]):
        assert stored(*order).call.conflict is conflict


# What is planned


def test_a_new_conflict_is_asked_about_after_5_minutes_and_further_disagreements_do_not_postpone_it() -> None:
    row = stored(callback("a", 1, **ANSWERED))
    row.call = replace(row.call, lookup_backoff=7)

    row.take(callback("a", 2, **NOT_ANSWERED), LATER)
    assert (row.call.next_lookup_at, row.call.lookup_backoff) == (IN_5_MINUTES, 0)
    for second in (3, 1.5):
        row.take(callback("a", second, **DONE, ivr=str(second)), LATER + timedelta(minutes=4))
        assert row.call.next_lookup_at == IN_5_MINUTES


def test_a_conflict_that_is_over_is_not_asked_about() -> None:
    row = stored(callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED))
    row.take(lookup("a", 3, **DONE))

    assert (row.call.conflict, row.call.next_lookup_at) == (False, None)


def test_a_conflict_that_esms_left_undecided_is_not_asked_about_again_until_it_was_decided() -> None:
    row = stored(callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED))
    row.call = lookup_schedule.give_up(row.call, LATER)
    row.take(callback("a", 3, **ANSWERED))
    assert (row.call.conflict, row.call.next_lookup_at, row.call.gave_up_at) == (True, None, None)

    row.take(lookup("a", 4, **ANSWERED))
    row.take(callback("a", 5, **NOT_ANSWERED))
    assert row.call.next_lookup_at == IN_5_MINUTES


def test_settling_clears_the_planned_lookup_and_gave_up_at() -> None:
    given_up = replace(fold_of([callback("a", 1, **SENT)]), gave_up_at=at(2), next_lookup_at=LATER)
    settled = lookup_schedule.plan(given_up, rule.fold(given_up, callback("a", 3, **DONE)), LATER)

    assert (settled.settled, settled.gave_up_at, settled.next_lookup_at) == (True, None, None)


def test_a_call_that_is_settled_into_a_conflict_at_once_is_asked_about() -> None:
    open_call = Call(reference_id="a", placed_at=NOW, next_lookup_at=LATER)
    in_conflict = fold_of([callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED)])

    assert lookup_schedule.plan(open_call, in_conflict, LATER).next_lookup_at == IN_5_MINUTES


def test_a_progress_report_plans_nothing() -> None:
    before = replace(fold_of([callback("a", 1, **WAITING)]), gave_up_at=at(2), next_lookup_at=None)
    after = rule.fold(before, callback("a", 3, **SENT))

    assert lookup_schedule.plan(before, after, LATER) == after


def test_a_call_that_a_lookup_settled_is_charged_and_not_asked_about_again() -> None:
    before = replace(Call(reference_id="a", placed_at=NOW), lookup_count=2)
    settled = lookup_schedule.plan(before, rule.fold(before, lookup("a", 1, **DONE)), LATER)
    charged = lookup_schedule.charge(before, settled, "100", LATER, answered=True, spread=1)

    assert (charged.lookup_count, charged.last_lookup_code, charged.next_lookup_at) == (3, "100", None)


def test_the_doubling_starts_anew_with_a_conflict_and_the_count_does_not() -> None:
    row = stored(callback("a", 1, **ANSWERED))
    row.call = replace(row.call, lookup_count=5, lookup_backoff=5)
    row.take(callback("a", 2, **NOT_ANSWERED))
    for minutes in (5, 10):
        row.call = lookup_schedule.charge(row.call, row.call, "http-500", LATER, answered=True, spread=1)
        assert row.call.next_lookup_at == LATER + timedelta(minutes=minutes)
    assert row.call.lookup_count == 7


def test_a_lookup_after_which_an_older_callback_disagrees_leaves_the_5_minutes_of_the_new_conflict() -> None:
    row = stored(callback("a", 3, **NOT_ANSWERED))
    before = row.call
    row.take(lookup("a", 2, **ANSWERED))
    charged = lookup_schedule.charge(before, row.call, "100", LATER, answered=True, spread=1.1)

    assert (charged.conflict, charged.next_lookup_at, charged.lookup_backoff) == (True, IN_5_MINUTES, 0)


def test_a_missing_call_is_given_up_and_a_conflict_stays_flagged() -> None:
    missing = replace(Call(reference_id="a", placed_at=NOW), next_lookup_at=LATER)
    in_conflict = stored(callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED)).call

    assert lookup_schedule.give_up(missing, LATER) == replace(missing, next_lookup_at=None, gave_up_at=LATER)
    assert lookup_schedule.give_up(in_conflict, LATER) == replace(in_conflict, next_lookup_at=None)


# Registrations


def test_registered_values_outrank_reports_also_when_folded_again() -> None:
    words: dict[str, Any] = {"phone": "1", "request_id": "1"}
    early, late = callback("a", 1, phone="0", request_id="0"), callback("a", 9, phone="2", request_id="2", **ANSWERED)
    row = stored(early)
    row.call = rule.register(row.call, Registration(reference_id="a", placed_at=at(5), **words), at(5))
    row.take(late)

    for call in (row.call, rule.fold_all(row.call, [late, early]), rule.fold_all(row.call, [])):
        assert (call.phone, call.request_id, call.placed_at) == ("1", "1", at(5))


def test_what_was_not_registered_is_what_reports_say_also_after_a_registration() -> None:
    row = stored(callback("a", 1, phone="0"))
    row.call = rule.register(row.call, Registration(reference_id="a", request_id="1"), at(5))
    row.take(callback("a", 9, phone="2", request_id="2"))

    for call in (row.call, rule.fold_all(row.call, row.history.values())):
        assert (call.phone, call.request_id) == ("2", "1")


def test_newer_words_replace_older_ones_and_what_is_left_out_replaces_nothing() -> None:
    call = Call(reference_id="a", placed_at=at(1))
    full = Registration(reference_id="a", request_id="1", phone="1", campaign="1", placed_at=at(0))
    first = rule.register(call, full, at(1))

    assert rule.register(first, Registration(reference_id="a"), at(2)) == first
    assert rule.register(first, replace(full, phone="2", campaign="2"), at(2)) == replace(
        first, phone="2", campaign="2"
    )
    assert (first.registered_at, first.placed_at, first.campaign) == (at(1), at(0), "1")


def test_a_registration_changes_nothing_else() -> None:
    row = stored(callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED))
    registration = Registration(reference_id="a", request_id="1", phone="1", campaign="1", placed_at=at(0))

    assert differences(row.call, rule.register(row.call, registration, at(3))) == {
        "request_id",
        "phone",
        "campaign",
        "placed_at",
        "registered_at",
        "registered_fields",
    }


@pytest.mark.parametrize(
    ("placed_at", "registered_at", "reported_at", "expected"),
    [
        (at(5), at(2), at(1), at(5)),
        (at(0), at(2), at(1), at(0)),
        (None, at(2), at(1), at(1)),
        (None, at(1), at(2), at(1)),
        (None, at(2), None, at(2)),
        (None, None, at(2), at(2)),
    ],
)
def test_placed_at_is_as_registered_else_the_first_registration_or_report(
    placed_at: datetime | None, registered_at: datetime | None, reported_at: datetime | None, expected: datetime
) -> None:
    first_seen = min(moment for moment in (registered_at, reported_at) if moment)
    registrations = [Registration(reference_id="a", placed_at=placed_at)] if registered_at else []
    reports = [callback("a", id=UUID(int=1), received_at=reported_at)] if reported_at else []
    words: list[Registration | StatusReport] = [*registrations, *reports]
    for order in permutations(words):
        row = Row(first_seen)
        for word in order:
            if isinstance(word, Registration):
                row.call = rule.register(row.call, word, registered_at or NOW)
            else:
                row.take(word)
        assert row.call.placed_at == rule.fold_all(row.call, reports).placed_at == expected


def test_a_registered_call_is_a_value_like_any_other() -> None:
    registered = rule.register(Call(reference_id="a", placed_at=NOW), Registration(reference_id="a", phone="1"), NOW)
    before = hash(registered)
    in_conflict = rule.fold(rule.fold(registered, lookup("a", 1, **ANSWERED)), callback("a", 2, **NOT_ANSWERED))

    assert (hash(registered), in_conflict.registered_fields) == (before, frozenset({"phone"}))


# Effects


@pytest.mark.parametrize(
    ("before", "report", "effect"),
    [
        ([], callback("a", 1, **DONE), "settled"),
        ([callback("a", 1, **SENT)], lookup("a", 2, **DONE), "settled"),
        ([callback("a", 2, **SENT)], callback("a", 1, **ANSWERED), "settled"),
        ([callback("a", 1, **DONE)], callback("a", 2, **SENT, ivr="1"), "stale"),
        ([callback("a", 1, **DONE)], lookup("a", 2), "stale"),
        ([callback("a", 2, **DONE)], callback("a", 1, **SENT), "stale"),
        ([callback("a", 1, **ANSWERED)], callback("a", 2, **NOT_ANSWERED), "conflict"),
        ([lookup("a", 1, **ANSWERED)], callback("a", 2, **NOT_ANSWERED, cid="1"), "conflict"),
        ([callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED)], callback("a", 3, **ANSWERED), "conflict"),
        ([callback("a", 2, **ANSWERED)], callback("a", 1, **NOT_ANSWERED), "conflict"),
        ([callback("a", 1, **ANSWERED)], lookup("a", 2, **NOT_ANSWERED), "corrected"),
        ([lookup("a", 1, **DONE, ivr="1")], lookup("a", 2, **DONE, ivr="2"), "corrected"),
        ([callback("a", 2, **ANSWERED)], lookup("a", 1, **NOT_ANSWERED), "corrected"),
        ([callback("a", 1, **ANSWERED)], lookup("a", 2, **ANSWERED), "confirmed"),
        ([callback("a", 1, **DONE)], lookup("a", 2, **ANSWERED, call_duration=7), "confirmed"),
        ([callback("a", 1, **DONE, sent_result=0)], lookup("a", 2, **DONE, sent_result=1), "corrected"),
        ([callback("a", 1, **DONE, price=Decimal(1))], callback("a", 2, **DONE, price=Decimal(2)), "enriched"),
        ([callback("a", 1, **ANSWERED), callback("a", 2, **NOT_ANSWERED)], lookup("a", 3, **DONE), "confirmed"),
        ([lookup("a", 2, **ANSWERED)], lookup("a", 1, **NOT_ANSWERED), "confirmed"),
        ([callback("a", 2, **SENT, ivr="1"), callback("a", 3, **DONE)], lookup("a", 1, **DONE), "confirmed"),
        ([callback("a", 1, **DONE)], callback("a", 2, **DONE, price=Decimal(450)), "enriched"),
        ([callback("a", 1, **DONE)], callback("a", 2, **ANSWERED), "enriched"),
        ([lookup("a", 1, **DONE)], callback("a", 2, **DONE), "enriched"),
        ([callback("a", 2, **DONE)], callback("a", 1, **SENT, cid="1"), "enriched"),
        ([lookup("a", 2, **DONE), callback("a", 3, **DONE)], callback("a", 1, **DONE), "enriched"),
        ([], callback("a", 1), "progressed"),
        ([], lookup("a", 1, **SENT), "progressed"),
        ([callback("a", 1, **WAITING)], callback("a", 2, **SENT), "progressed"),
        ([callback("a", 2, **SENT)], callback("a", 1, **WAITING, cid="1"), "progressed"),
        ([callback("a", 1, **SENT)], callback("a", 2, **SENT), "duplicate"),
        ([callback("a", 2, **SENT)], callback("a", 1, **WAITING), "duplicate"),
        ([callback("a", 1, **SENT)], lookup("a", 2), "duplicate"),
        ([callback("a", 1, **DONE)], callback("a", 2, **DONE), "duplicate"),
        ([callback("a", 2, **DONE)], callback("a", 1, **DONE), "duplicate"),
    ],
)
def test_the_effect_of_a_report_is_the_first_that_fits(
    before: list[StatusReport], report: StatusReport, effect: str
) -> None:
    row = stored(*before) if before else Row(NOW)

    assert row.take(report) == effect


def test_the_first_report_of_a_registered_call_is_progress_even_if_it_says_nothing() -> None:
    row = Row(NOW)
    row.call = rule.register(row.call, Registration(reference_id="a", phone="1"), NOW)

    assert [row.take(callback("a", second, phone="2")) for second in (1, 2)] == ["progressed", "duplicate"]


# Any reports, written in any order


def reports(**origin: Any) -> st.SearchStrategy[StatusReport]:
    return st.builds(
        report_with,
        id=st.integers(1, 9).map(lambda number: UUID(int=number)),
        reference_id=st.just("a"),
        received_at=st.integers(0, 4).map(at),
        call_status=any_of("ANSWERED", "NOANSWERED"),
        call_duration=any_of(0, 7),
        ivr=any_of("1"),
        send_status=any_of(2, 7, 5, 5, 6),
        sent_result=any_of(0, 1),
        price=any_of(Decimal("1.0000"), Decimal("2.0000")),
        phone=any_of("0", "1"),
        **origin,
    )


HISTORIES = st.lists(
    st.one_of(
        reports(source=st.just("callback")),
        reports(source=st.just("lookup"), lookup_code=st.sampled_from(["100", "99"])),
    ),
    min_size=1,
    max_size=7,
    unique_by=lambda report: report.id,
)
DELIVERIES = HISTORIES.flatmap(
    lambda history: st.tuples(
        st.just(history), st.lists(st.sampled_from(history), max_size=3).flatmap(lambda r: st.permutations(history + r))
    )
)
REGISTRATIONS = st.builds(
    Registration,
    reference_id=st.just("a"),
    phone=any_of("2"),
    request_id=any_of("2"),
    campaign=any_of("june"),
    placed_at=any_of(at(0), at(9)),
)
MANY = settings(max_examples=sized(80), deadline=None)


@MANY
@given(DELIVERIES)
def test_the_call_is_the_fold_of_the_set_of_its_reports_however_they_are_delivered(
    delivery: tuple[list[StatusReport], list[StatusReport]],
) -> None:
    history, delivered = delivery

    assert by_reports(stored(*delivered).call) == fold_of(history)


@MANY
@given(DELIVERIES, REGISTRATIONS, st.integers(0, 10), st.integers(0, 4))
def test_it_is_so_whenever_the_call_is_registered(
    delivery: tuple[list[StatusReport], list[StatusReport]], registration: Registration, place: int, second: int
) -> None:
    history, delivered = delivery
    row = Row(at(second) if place == 0 else delivered[0].received_at)
    for report in delivered[:place]:
        row.take(report)
    row.call = rule.register(row.call, registration, at(second))
    for report in delivered[place:]:
        row.take(report)

    registered = rule.register(Call(reference_id="a", placed_at=at(second)), registration, at(second))
    assert by_reports(row.call) == rule.fold_all(registered, history)


@MANY
@given(DELIVERIES)
def test_a_settled_call_stays_settled_and_every_effect_is_one_of_the_closed_set(
    delivery: tuple[list[StatusReport], list[StatusReport]],
) -> None:
    row = Row(delivery[1][0].received_at)
    for report in delivery[1]:
        before = row.call
        effect = row.take(report)
        assert row.call.settled >= before.settled
        assert effect in EFFECTS if effect else row.call == before
        assert (effect == "settled") == (row.call.settled > before.settled)


@MANY
@given(DELIVERIES)
def test_a_call_is_planned_5_minutes_after_each_conflict_began_and_not_at_all_without_one(
    delivery: tuple[list[StatusReport], list[StatusReport]],
) -> None:
    row = Row(delivery[1][0].received_at)
    for hours, report in enumerate(delivery[1]):
        before = row.call
        row.take(report, LATER + timedelta(hours=hours))
        began = IN_5_MINUTES + timedelta(hours=hours)
        expected = (before.next_lookup_at or began) if row.call.conflict else None
        assert row.call.next_lookup_at == expected


# The rule once more, as slowly and plainly as it can be said


def is_final(report: StatusReport) -> bool:
    if report.send_status is None:
        return bool(report.call_status) or report.sent_result is not None
    return report.send_status in {4, 5, 6}


def believed_value(history: Sequence[StatusReport], name: str) -> Any:
    """The value that history, which is in order, makes us believe."""

    def rank(place: int) -> tuple[int, int]:
        confirmed = history[place].source == "lookup" and name in OUTCOME_FIELDS
        return (1 + confirmed if is_final(history[place]) else 0), place

    first_final = next((place for place, report in enumerate(history) if is_final(report)), len(history))
    counting = [place for place, report in enumerate(history) if place < first_final or is_final(report)]
    saying = [place for place in counting if getattr(history[place], name) is not None]
    return getattr(history[max(saying, key=rank)], name) if saying else None


def first_said(history: Sequence[StatusReport], name: str) -> Any:
    """Price or CID by the contract's sentence, read word by word."""
    outcome = {field: believed_value(history, field) for field in OUTCOME_FIELDS}

    def agrees(report: StatusReport) -> bool:
        return all(
            getattr(report, field) is None or value is None or getattr(report, field) == value
            for field, value in outcome.items()
        )

    saying = [report for report in history if getattr(report, name) is not None]
    final = [report for report in saying if is_final(report)]
    asked = [report for report in final if report.source == "lookup"]
    from_callbacks = [report for report in final if report.source == "callback"]
    first_final = next((report.order for report in history if is_final(report)), None)
    progress = [report for report in saying if not is_final(report) and (not first_final or report.order < first_final)]
    for wanted, place in (
        (asked, -1),
        ([report for report in from_callbacks if agrees(report)], 0),
        ([report for report in from_callbacks if not agrees(report)], -1),
        (progress, -1),
    ):
        if wanted:
            return getattr(wanted[place], name)
    return None


def is_in_conflict(history: Sequence[StatusReport]) -> bool:
    """Whether a final callback since the last final lookup contradicts what was believed when it came."""
    finals = [place for place, report in enumerate(history) if is_final(report)]
    asked = [place for place in finals if history[place].source == "lookup"]
    for place in finals[1:]:
        said = {name: getattr(history[place], name) for name in OUTCOME_FIELDS}
        known = {name: believed_value(history[:place], name) for name in OUTCOME_FIELDS}
        contradicts = any(None not in {said[name], known[name]} and said[name] != known[name] for name in said)
        if contradicts and place > max(asked, default=-1):
            return True
    return False


@MANY
@given(HISTORIES)
def test_the_fold_is_what_the_rule_says_of_the_whole_set(history: list[StatusReport]) -> None:
    call = fold_of(history)

    history = sorted(history, key=lambda report: (report.received_at, report.id))
    finals = [report for report in history if is_final(report)]
    callbacks = [report.received_at for report in finals if report.source == "callback"]
    lookups = [report.received_at for report in finals if report.source == "lookup"]
    newest = {name: believed_value(history, name) for name in FIELDS if name not in FIRST_SAID}
    expected = (
        newest
        | {name: first_said(history, name) for name in FIRST_SAID}
        | {
            "conflict": is_in_conflict(history),
            "settled_at": finals[0].received_at if finals else None,
            "settled_by": finals[0].source if finals else None,
            "callback_at": callbacks[0] if callbacks else None,
            "confirmed_at": lookups[-1] if lookups else None,
            "placed_at": history[0].received_at,
            "last_reported_at": history[-1].received_at,
            "report_count": len(history),
        }
    )
    assert {name: getattr(call, name) for name in expected} == expected
