"""The numbers behind the charts."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from webapp.calls.facts import DELAY_EDGES, TALK_EDGES
from webapp.web.pages import charts


@given(st.integers(0, 10**12))
def test_an_axis_is_round_and_holds_the_largest_value(largest: int) -> None:
    values = charts.axis(largest)

    assert values[0] == 0
    assert values[-1] >= largest
    assert 2 <= len(values) <= 5
    assert str(values[1]).rstrip("0") in {"1", "2", "5"}


def test_columns_are_days_and_above_62_days_weeks_from_monday() -> None:
    by_day = {date(2026, 11, 23): {"answered": 2, "unknown": 1}, date(2026, 11, 24): {"given_up": 3}}

    days = charts.columns(by_day, date(2026, 11, 22), date(2026, 11, 24))
    weeks = charts.columns(by_day, date(2026, 9, 23), date(2026, 11, 24))

    assert [column.total for column in days] == [0, 3, 3]
    assert (days[1].parts["other"], days[2].parts["missing"]) == (1, 3)
    assert [(column.first, column.last) for column in (weeks[0], weeks[1], weeks[-1])] == [
        (date(2026, 9, 23), date(2026, 9, 27)),
        (date(2026, 9, 28), date(2026, 10, 4)),
        (date(2026, 11, 23), date(2026, 11, 24)),
    ]
    assert weeks[-1].total == 6


def test_columns_of_more_than_two_years_are_months_and_hold_every_day() -> None:
    by_day = {
        day: {"answered": 1} for day in (date(2018, 3, 5), date(2018, 3, 31), date(2018, 4, 1), date(2027, 12, 31))
    }

    found = charts.columns(by_day, date(2018, 3, 5), date(2028, 1, 1))

    assert (found[0].first, found[-1].last) == (date(2018, 3, 5), date(2028, 1, 1))
    assert all(one.last + timedelta(days=1) == next_one.first for one, next_one in pairwise(found))
    assert {one.first.day for one in found[1:]} == {1}
    for column in found:
        assert column.total == sum(column.first <= day <= column.last for day in by_day)


def test_classes_hold_every_call_once_and_end_at_all() -> None:
    talk = charts.talk_classes([(edge, 1) for edge in TALK_EDGES])
    delay = charts.delay_classes([(edge, 1) for edge in DELAY_EDGES])

    assert sum(one.calls for one in talk) == len(TALK_EDGES)
    assert sum(one.calls for one in delay) == len(DELAY_EDGES)
    assert (talk[-1].edge, delay[-1].edge) == (None, None)
    assert talk[0].calls == 2
    assert delay[-1].up_to_here == 1
    assert {one.edge for one in delay[:-1]} <= set(DELAY_EDGES)
    assert charts.delay_classes([])[0].share == 0
