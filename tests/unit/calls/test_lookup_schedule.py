"""When a call is looked up again: pauses that double, shorter ones after no answer, and their end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from makers import NOW

from webapp.calls import lookup_schedule
from webapp.calls.rule import Call

MINUTE = timedelta(minutes=1)
MISSING = Call(reference_id="a", placed_at=NOW)
SETTLED = replace(MISSING, settled_at=NOW)
IN_CONFLICT = replace(SETTLED, conflict=True)


def pauses(call: Call, answered: list[bool]) -> list[float]:
    """The pauses in minutes after look-ups that leave the call open, one after another."""
    found = []
    for one in answered:
        call = lookup_schedule.charge(call, call, "105", NOW, answered=one, spread=1)
        assert call.next_lookup_at
        found.append((call.next_lookup_at - NOW) / MINUTE)
    assert call.lookup_count == len(answered)
    return found


def test_the_pause_doubles_from_5_minutes_to_6_hours() -> None:
    assert pauses(MISSING, [True] * 10) == [5, 10, 20, 40, 80, 160, 320, 360, 360, 360]


def test_after_no_answer_the_pause_doubles_to_30_minutes_only() -> None:
    assert pauses(MISSING, [False] * 6) == [5, 10, 20, 30, 30, 30]


def test_an_outage_of_esms_makes_no_later_pause_long() -> None:
    """However many look-ups had no answer, the pause goes on from where 30 minutes are."""
    assert pauses(MISSING, [False] * 100 + [True] * 2) == [5, 10, 20, *[30] * 97, 40, 80]


def test_after_a_long_pause_no_answer_makes_a_short_one_and_an_answer_a_long_one_again() -> None:
    assert pauses(MISSING, [*[True] * 8, False, True])[7:] == [360, 30, 360]


def test_a_pause_that_doubled_for_years_is_still_6_hours() -> None:
    assert pauses(replace(MISSING, lookup_backoff=1000), [True, False]) == [360, 30]


@pytest.mark.parametrize("spread", [0.9, 1.1])
def test_the_pause_is_spread(spread: float) -> None:
    call = lookup_schedule.charge(MISSING, MISSING, "105", NOW, answered=True, spread=spread)

    assert call.next_lookup_at == NOW + 5 * MINUTE * spread


def test_a_look_up_of_a_call_that_is_settled_by_it_is_counted_and_no_other_planned() -> None:
    call = lookup_schedule.charge(MISSING, SETTLED, "100", NOW, answered=True, spread=1)

    assert (call.lookup_count, call.last_lookup_code, call.next_lookup_at) == (1, "100", None)


def test_a_look_up_of_a_call_that_was_given_up_is_counted_and_no_other_planned() -> None:
    given_up = replace(MISSING, gave_up_at=NOW)

    call = lookup_schedule.charge(given_up, given_up, "104", NOW, answered=True, spread=1)

    assert (call.lookup_count, call.next_lookup_at) == (1, None)


def test_each_conflict_is_looked_up_in_5_minutes_and_its_pauses_double_anew() -> None:
    before = replace(SETTLED, lookup_backoff=7)

    call = lookup_schedule.plan(before, replace(before, conflict=True), NOW)

    assert (call.next_lookup_at, call.lookup_backoff) == (NOW + 5 * MINUTE, 0)


def test_a_look_up_that_makes_a_conflict_leaves_the_planned_look_up_as_it_is() -> None:
    planned = lookup_schedule.plan(MISSING, IN_CONFLICT, NOW)

    call = lookup_schedule.charge(MISSING, planned, "100", NOW, answered=True, spread=1)

    assert (call.next_lookup_at, call.lookup_count) == (NOW + 5 * MINUTE, 1)


def test_a_conflict_that_is_over_is_not_looked_up_again() -> None:
    before = replace(IN_CONFLICT, next_lookup_at=NOW)

    assert lookup_schedule.plan(before, replace(before, conflict=False), NOW).next_lookup_at is None


def test_a_missing_call_is_given_up_and_one_in_conflict_stays_so_without_another_look_up() -> None:
    missing = lookup_schedule.give_up(replace(MISSING, next_lookup_at=NOW), NOW)
    torn = lookup_schedule.give_up(replace(IN_CONFLICT, next_lookup_at=NOW), NOW)

    assert (missing.gave_up_at, missing.next_lookup_at) == (NOW, None)
    assert (torn.gave_up_at, torn.next_lookup_at, torn.conflict) == (None, None, True)


def test_what_settles_a_call_that_was_given_up_takes_that_back() -> None:
    before = replace(MISSING, gave_up_at=NOW)

    assert lookup_schedule.plan(before, replace(before, settled_at=NOW), NOW).gave_up_at is None


def test_a_call_that_is_reopened_is_due_at_once_and_its_pauses_double_anew() -> None:
    call = lookup_schedule.reopen(replace(MISSING, gave_up_at=NOW, lookup_backoff=7), NOW)

    assert (call.gave_up_at, call.next_lookup_at, call.lookup_backoff) == (None, NOW, 0)
