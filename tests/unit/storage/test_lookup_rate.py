"""The shared rate as a value: whatever is reserved, slots come one after another, and never too many in a second."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import NOW, at

from webapp.storage.lookup_rate import LONGEST_RETRY_AFTER, RECOVERY, SLACK, SMALLEST_SHARE, LookupRate

SECOND = timedelta(seconds=1)


def in_seconds(slots: list[Any]) -> list[float]:
    return [round((slot - NOW).total_seconds(), 6) for slot in slots]


def test_slots_are_spaced_evenly_and_a_little_further_apart_than_the_rate_says() -> None:
    current, first = LookupRate(next_slot_at=at(-5)).reserve(NOW, 3, 10)
    current, then = current.reserve(at(0.01), 2, 10)

    gap = SLACK / 10
    assert SLACK > 1
    assert in_seconds([*first, *then]) == pytest.approx([0, gap, 2 * gap, 3 * gap, 4 * gap])
    assert in_seconds([current.next_slot_at]) == pytest.approx([5 * gap])


def test_slots_that_were_not_used_are_not_made_up_for() -> None:
    current, _ = LookupRate(next_slot_at=NOW).reserve(NOW, 1, 10)

    _, later = current.reserve(at(60), 2, 10)

    assert in_seconds(later) == pytest.approx([60, 60 + SLACK / 10])


def test_at_half_the_share_slots_are_twice_as_far_apart() -> None:
    halved = LookupRate(next_slot_at=NOW).halved(NOW)

    _, (one, other) = halved.reserve(NOW, 2, 10)

    assert (other - one).total_seconds() == pytest.approx(2 * SLACK / 10)


def test_the_share_is_halved_down_to_the_smallest() -> None:
    current, shares = LookupRate(next_slot_at=NOW), []
    for _ in range(7):
        current = current.halved(NOW)
        shares.append(current.share_at(NOW))

    assert shares == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, SMALLEST_SHARE, SMALLEST_SHARE]


def test_the_share_recovers_evenly_up_to_the_full_rate() -> None:
    current = LookupRate(next_slot_at=NOW).halved(NOW)

    assert current.share_at(NOW + RECOVERY / 4) == pytest.approx(3 / 4)
    assert current.share_at(NOW + RECOVERY / 2) == 1
    assert current.share_at(NOW + 100 * RECOVERY) == 1
    assert current.halved(NOW + RECOVERY / 4).share_at(NOW + RECOVERY / 4) == pytest.approx(3 / 8)
    assert LookupRate(next_slot_at=NOW).share_at(NOW) == 1


def test_the_share_recovers_also_after_a_clock_was_set_back() -> None:
    current = LookupRate(next_slot_at=at(86400)).halved(at(86400))

    assert current.share_at(at(86399)) < 0.6
    assert current.share_at(NOW) == 1
    assert current.reserve(NOW, 1, 10)[1] == [NOW + LONGEST_RETRY_AFTER]


def test_in_a_pause_there_is_no_slot_and_a_shorter_pause_does_not_end_it() -> None:
    current = LookupRate(next_slot_at=NOW).paused(at(30)).paused(at(10))

    _, slots = current.reserve(NOW, 2, 10)

    assert in_seconds(slots) == pytest.approx([30, 30 + SLACK / 10])
    assert current.share_at(NOW) == 1


def test_a_pause_that_is_over_delays_nothing() -> None:
    assert LookupRate(next_slot_at=NOW).paused(at(30)).reserve(at(31), 1, 10)[1] == [at(31)]


def test_a_next_slot_that_is_too_far_ahead_is_ignored() -> None:
    """Such as one that was written while a clock was wrong."""
    current, slots = LookupRate(next_slot_at=NOW + timedelta(days=365)).reserve(NOW, 1, 10)

    assert slots == [NOW + LONGEST_RETRY_AFTER]
    assert current.next_slot_at == NOW + LONGEST_RETRY_AFTER + SECOND * SLACK / 10


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "reserve", "halved", "paused"]),
        st.floats(0, 3, allow_nan=False),  # seconds that go by
        st.integers(1, 30),  # how many slots, or how many tenths of a second to pause
    ),
    max_size=40,
)


@given(st.integers(1, 1000), STEPS)
def test_whatever_happens_no_second_has_more_slots_than_the_rate(
    rate: int, steps: list[tuple[str, float, int]]
) -> None:
    current, now, slots = LookupRate(next_slot_at=NOW), NOW, []
    for step, seconds, number in steps:
        now += timedelta(seconds=seconds)
        if step == "halved":
            current = current.halved(now)
        elif step == "paused":
            current = current.paused(now + timedelta(seconds=number / 10))
        else:
            current, taken = current.reserve(now, number, rate)
            assert len(taken) == number
            assert taken[0] >= now
            slots += taken

    assert slots == sorted(slots)
    assert all(later - one >= SECOND for one, later in zip(slots, slots[rate:], strict=False))
    assert 0 < current.share_at(now) <= 1
