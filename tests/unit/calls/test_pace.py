"""The shared pace, as a value: whatever is asked of it, look-ups leave one after the other, and never too fast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import NOW, at

from webapp.calls.pace import LONGEST_PAUSE, RECOVERY, SLACK, SMALLEST_SHARE, Pace

SECOND = timedelta(seconds=1)


def in_seconds(moments: list[Any]) -> list[float]:
    return [round((moment - NOW).total_seconds(), 6) for moment in moments]


def test_moments_are_spaced_evenly_and_a_little_further_apart_than_the_rate_says() -> None:
    pace, first = Pace(next_slot_at=at(-5)).reserve(NOW, 3, 10)
    pace, then = pace.reserve(at(0.01), 2, 10)

    gap = SLACK / 10
    assert SLACK > 1
    assert in_seconds([*first, *then]) == pytest.approx([0, gap, 2 * gap, 3 * gap, 4 * gap])
    assert in_seconds([pace.next_slot_at]) == pytest.approx([5 * gap])


def test_time_that_was_not_used_is_not_made_up_for() -> None:
    pace, _ = Pace(next_slot_at=NOW).reserve(NOW, 1, 10)

    _, later = pace.reserve(at(60), 2, 10)

    assert in_seconds(later) == pytest.approx([60, 60 + SLACK / 10])


def test_at_half_the_share_moments_are_twice_as_far_apart() -> None:
    slowed = Pace(next_slot_at=NOW).slowed(NOW)

    _, (one, other) = slowed.reserve(NOW, 2, 10)

    assert (other - one).total_seconds() == pytest.approx(2 * SLACK / 10)


def test_each_slowing_halves_the_share_down_to_the_smallest() -> None:
    pace, shares = Pace(next_slot_at=NOW), []
    for _ in range(7):
        pace = pace.slowed(NOW)
        shares.append(pace.share_at(NOW))

    assert shares == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, SMALLEST_SHARE, SMALLEST_SHARE]


def test_the_share_recovers_evenly_and_stays_whole() -> None:
    pace = Pace(next_slot_at=NOW).slowed(NOW)

    assert pace.share_at(NOW + RECOVERY / 4) == pytest.approx(3 / 4)
    assert pace.share_at(NOW + RECOVERY / 2) == 1
    assert pace.share_at(NOW + 100 * RECOVERY) == 1
    assert pace.slowed(NOW + RECOVERY / 4).share_at(NOW + RECOVERY / 4) == pytest.approx(3 / 8)
    assert Pace(next_slot_at=NOW).share_at(NOW) == 1


def test_a_clock_that_was_set_back_does_not_keep_it_slow() -> None:
    pace = Pace(next_slot_at=at(86400)).slowed(at(86400))

    assert pace.share_at(at(86399)) < 0.6
    assert pace.share_at(NOW) == 1
    assert pace.reserve(NOW, 1, 10)[1] == [NOW + LONGEST_PAUSE]


def test_in_a_pause_nothing_leaves_and_a_shorter_one_does_not_end_it() -> None:
    pace = Pace(next_slot_at=NOW).paused(at(30)).paused(at(10))

    _, moments = pace.reserve(NOW, 2, 10)

    assert in_seconds(moments) == pytest.approx([30, 30 + SLACK / 10])
    assert pace.share_at(NOW) == 1


def test_a_pause_that_is_over_delays_nothing() -> None:
    assert Pace(next_slot_at=NOW).paused(at(30)).reserve(at(31), 1, 10)[1] == [at(31)]


def test_a_moment_too_far_ahead_is_not_believed() -> None:
    """Such as one that was written while a clock was wrong."""
    pace, moments = Pace(next_slot_at=NOW + timedelta(days=365)).reserve(NOW, 1, 10)

    assert moments == [NOW + LONGEST_PAUSE]
    assert pace.next_slot_at == NOW + LONGEST_PAUSE + SECOND * SLACK / 10


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "reserve", "slowed", "paused"]),
        st.floats(0, 3, allow_nan=False),  # seconds that go by
        st.integers(1, 30),  # how many moments, or how many tenths of a second to pause
    ),
    max_size=40,
)


@given(st.integers(1, 1000), STEPS)
def test_whatever_happens_no_second_has_more_moments_than_the_rate(
    rate: int, steps: list[tuple[str, float, int]]
) -> None:
    pace, now, moments = Pace(next_slot_at=NOW), NOW, []
    for step, seconds, number in steps:
        now += timedelta(seconds=seconds)
        if step == "slowed":
            pace = pace.slowed(now)
        elif step == "paused":
            pace = pace.paused(now + timedelta(seconds=number / 10))
        else:
            pace, taken = pace.reserve(now, number, rate)
            assert len(taken) == number
            assert taken[0] >= now
            moments += taken

    assert moments == sorted(moments)
    assert all(later - one >= SECOND for one, later in zip(moments, moments[rate:], strict=False))
    assert 0 < pace.share_at(now) <= 1
