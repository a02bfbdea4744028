"""The slots in which look-ups leave: on a clock that is set by the test, without a database."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW

from webapp.reconcile import rate_limiter
from webapp.reconcile.rate_limiter import RateLimiter
from webapp.storage import lookup_rate
from webapp.storage.lookup_rate import LONGEST_RETRY_AFTER, SLACK, LookupRate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Update

    from webapp.storage.database import Database

BEGIN = 1000.0


class FakeTime:
    """Monotonic seconds that go by only where the test, or a wait, lets them."""

    def __init__(self) -> None:
        self.now = BEGIN

    def monotonic(self) -> float:
        return self.now


class FakeDatabase:
    """Holds the shared rate; its clock is the fake one. A transaction takes ``takes`` seconds."""

    def __init__(self, clock: FakeTime) -> None:
        self.clock = clock
        self.takes = 0.0
        self.rate = LookupRate(next_slot_at=NOW)
        self.transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[FakeDatabase]:
        self.transactions += 1
        assert self.transactions < 100, "none of the reserved slots is used"
        yield self
        self.clock.now += self.takes

    def lock(self) -> tuple[LookupRate, datetime]:
        return self.rate, NOW + timedelta(seconds=self.clock.now - BEGIN)

    def execute(self, update: Update) -> None:
        self.rate = LookupRate(**update.compile().params)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(rate_limiter, "time", clock)
    monkeypatch.setattr(lookup_rate, "time", clock)
    monkeypatch.setattr(lookup_rate, "_lock", FakeDatabase.lock)

    def wait(_: threading.Condition, timeout: float | None = None) -> bool:
        assert timeout is not None
        clock.now += max(timeout, 0.0)
        return False

    monkeypatch.setattr(threading.Condition, "wait", wait)
    return clock


def fake(clock: FakeTime, rate: int, batch: int) -> tuple[RateLimiter, FakeDatabase]:
    fake_database = FakeDatabase(clock)
    database: Database = fake_database  # type: ignore[assignment]
    return RateLimiter(database, rate, batch), fake_database


def left(limiter: RateLimiter, clock: FakeTime, number: int) -> list[float]:
    """When the next look-ups leave, in seconds from the beginning."""
    times = []
    for _ in range(number):
        assert limiter.wait()
        times.append(clock.now - BEGIN)
    return times


def test_look_ups_leave_in_the_reserved_slots(clock: FakeTime) -> None:
    limiter, database = fake(clock, 10, 3)

    assert left(limiter, clock, 6) == pytest.approx([place * SLACK / 10 for place in range(6)], abs=1e-5)
    assert database.transactions == 2


def test_a_slot_that_was_missed_is_not_used(clock: FakeTime) -> None:
    """Otherwise look-ups that are late together would leave together."""
    limiter, _ = fake(clock, 10, 3)
    gap = SLACK / 10
    assert left(limiter, clock, 1) == [0]

    clock.now = BEGIN + gap + 0.05

    assert left(limiter, clock, 2) == pytest.approx([2 * gap, 3 * gap], abs=1e-5)


def test_a_look_up_that_is_hardly_late_still_leaves(clock: FakeTime) -> None:
    limiter, _ = fake(clock, 10, 3)
    left(limiter, clock, 1)

    clock.now = BEGIN + SLACK / 10 + 0.005

    assert left(limiter, clock, 1) == pytest.approx([SLACK / 10 + 0.005])


@pytest.mark.parametrize("takes", [0.05, 0.3, 3.0])
def test_however_long_a_reservation_takes_slots_of_each_are_used(clock: FakeTime, takes: float) -> None:
    """At a high rate all slots of a reservation lie within milliseconds, and would be over before it is committed."""
    limiter, database = fake(clock, 1000, 4)
    database.takes = takes

    left(limiter, clock, 20)

    assert database.transactions <= 2 + 20 / 4 + 1


def test_slowing_down_makes_reserved_slots_void(clock: FakeTime) -> None:
    limiter, database = fake(clock, 10, 3)
    left(limiter, clock, 1)

    limiter.slow_down(None, halve=True)

    assert database.rate.share_at(NOW) == 0.5
    one, other = left(limiter, clock, 2)
    assert one == pytest.approx(3 * SLACK / 10, abs=1e-5)
    assert other - one == pytest.approx(2 * SLACK / 10, rel=0.05)


def test_far_below_the_rate_slots_are_reserved_one_by_one(clock: FakeTime) -> None:
    """Each is far from the next, and those that become void are lost to all runs."""
    limiter, database = fake(clock, 10, 3)
    for _ in range(3):
        limiter.slow_down(None, halve=True)

    before = database.transactions
    left(limiter, clock, 2)

    assert database.transactions == before + 2


def test_a_pause_without_halving_holds_for_reserved_slots_too(clock: FakeTime) -> None:
    limiter, database = fake(clock, 10, 3)
    left(limiter, clock, 1)

    limiter.slow_down(7.5, halve=False)

    assert left(limiter, clock, 1) == pytest.approx([7.5])
    assert database.rate.share == 1


@pytest.mark.parametrize("seconds", [10.0**6, 10**20])
def test_a_pause_is_an_hour_at_the_most(clock: FakeTime, seconds: float) -> None:
    limiter, _ = fake(clock, 10, 3)

    limiter.slow_down(seconds, halve=True)

    assert left(limiter, clock, 1) == pytest.approx([LONGEST_RETRY_AFTER.total_seconds()])


def test_once_closed_no_look_up_leaves_and_no_slot_is_reserved(clock: FakeTime) -> None:
    limiter, database = fake(clock, 10, 3)
    limiter.close()

    assert not limiter.wait()
    assert database.transactions == 0


def test_the_rate_shown_to_others_is_what_is_saved(clock: FakeTime) -> None:
    limiter, database = fake(clock, 10, 3)
    other: Any = RateLimiter(database, 10, 3)  # type: ignore[arg-type]

    assert left(limiter, clock, 1) == [0]
    assert left(other, clock, 1) == pytest.approx([3 * SLACK / 10], abs=1e-5)
