"""Whose turn it is: threads, runs and processes on one database leave one after the other, at the rate."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from makers import NOW
from reconciling import ON_POSTGRESQL, ON_SQLITE, most_within, rows, wait_until
from sql import write

from webapp.calls.pace import LONGEST_PAUSE, SLACK, Pace
from webapp.reconcile import rate_limiter
from webapp.reconcile.rate_limiter import RateLimiter
from webapp.storage.database import Database
from webapp.storage.errors import Unavailable
from webapp.storage.lookup_rate import Slots
from webapp.storage.models import lookup_rate
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from webapp.storage.database import Database
from webapp.storage.writer import Writer
from webapp.reconcile.rate_limiter import RateLimiter
url, rate, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
turns = RateLimiter(Writer(Database(url)), rate, 3)
def turn(_):
    assert turns.wait()
    return time.monotonic()
with ThreadPoolExecutor(6) as threads:
    print(*threads.map(turn, range(number)))
"""


class FakeTime:
    """Monotonic seconds that go by only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakeStore:
    """A pace without a database; its clock is the monotonic one. Writing takes ``takes`` seconds."""

    def __init__(self, clock: FakeTime) -> None:
        self.clock = clock
        self.takes = 0.0
        self.at = Pace(next_slot_at=NOW)
        self.reservations = 0

    def reserve_slots(self, wanted: int, rate: int, *, lead: timedelta, after_slowdown: int) -> Slots:
        self.reservations += 1
        assert self.reservations < 100, "none of what is reserved is used"
        now, read_at = NOW + timedelta(seconds=self.clock.now - 1000), self.clock.now
        number = wanted if self.at.share_at(now) > 1 / 4 else after_slowdown
        self.at, slots = self.at.reserve(now + lead, number, rate)
        self.clock.now += self.takes
        return Slots(slots, now, read_at)

    def slow_down(self, pause_seconds: float | None, *, halve: bool) -> None:
        now = NOW + timedelta(seconds=self.clock.now - 1000)
        self.at = self.at.slowed(now) if halve else self.at
        if pause_seconds is not None:
            self.at = self.at.paused(now + timedelta(seconds=min(pause_seconds, LONGEST_PAUSE.total_seconds())))
        self.clock.now += self.takes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(rate_limiter, "time", clock)

    def wait_for(_: threading.Condition, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Time goes by while somebody waits, and not otherwise."""
        if not predicate() and timeout is not None:
            clock.now += max(timeout, 0.0)
        return predicate()

    monkeypatch.setattr(threading.Condition, "wait_for", wait_for)
    return clock


def fake(clock: FakeTime, rate: int, at_once: int) -> tuple[RateLimiter, FakeStore]:
    writer = FakeStore(clock)
    return RateLimiter(writer, rate, at_once), writer  # type: ignore[arg-type]


def left(turns: RateLimiter, clock: FakeTime, number: int) -> list[float]:
    moments = []
    for _ in range(number):
        assert turns.wait()
        moments.append(clock.now - 1000)
    return moments


def test_turns_come_at_the_reserved_moments(clock: FakeTime) -> None:
    turns, writer = fake(clock, 10, 3)

    assert left(turns, clock, 6) == pytest.approx([place * SLACK / 10 for place in range(6)], abs=1e-5)
    assert writer.reservations == 2


def test_a_moment_that_was_missed_is_dropped(clock: FakeTime) -> None:
    """Or those who were late together would leave together."""
    turns, _ = fake(clock, 10, 3)
    gap = SLACK / 10
    assert left(turns, clock, 1) == [0]

    clock.now = 1000 + gap + 0.05

    assert left(turns, clock, 2) == pytest.approx([2 * gap, 3 * gap], abs=1e-5)


def test_one_who_is_hardly_late_still_leaves(clock: FakeTime) -> None:
    turns, _ = fake(clock, 10, 3)
    left(turns, clock, 1)

    clock.now = 1000 + SLACK / 10 + 0.005

    assert left(turns, clock, 1) == pytest.approx([SLACK / 10 + 0.005])


@pytest.mark.parametrize("takes", [0.05, 0.3, 3.0])
def test_however_slowly_reservations_are_written_some_moment_of_each_is_used(clock: FakeTime, takes: float) -> None:
    """At a high rate all moments of a reservation lie within milliseconds, and were over before it was written."""
    turns, writer = fake(clock, 1000, 4)
    writer.takes = takes

    left(turns, clock, 20)

    assert writer.reservations <= 2 + 20 / 4 + 1


def test_slowing_down_makes_void_what_is_reserved(clock: FakeTime) -> None:
    turns, writer = fake(clock, 10, 3)
    left(turns, clock, 1)

    turns.slow_down(None, halve=True)

    assert writer.at.share_at(NOW) == 0.5
    one, other = left(turns, clock, 2)
    assert one == pytest.approx(3 * SLACK / 10, abs=1e-5)
    assert other - one == pytest.approx(2 * SLACK / 10, rel=0.05)


def test_a_pause_without_slowing_is_kept_by_all_that_was_reserved(clock: FakeTime) -> None:
    turns, writer = fake(clock, 10, 3)
    left(turns, clock, 1)

    turns.slow_down(7.5, halve=False)

    assert left(turns, clock, 1) == pytest.approx([7.5])
    assert writer.at.share == 1


@pytest.mark.parametrize("seconds", [10.0**6, 10**20])
def test_a_pause_is_an_hour_at_the_most(clock: FakeTime, seconds: float) -> None:
    turns, _ = fake(clock, 10, 3)

    turns.slow_down(seconds, halve=True)

    assert left(turns, clock, 1) == pytest.approx([LONGEST_PAUSE.total_seconds()])


def test_once_closed_nobody_gets_a_turn(clock: FakeTime) -> None:
    turns, writer = fake(clock, 10, 3)
    turns.close()

    assert not turns.wait()
    assert writer.reservations == 0


# With real threads and a real clock


@ON_SQLITE
def test_closing_wakes_all_who_wait(writer: Writer) -> None:
    turns = RateLimiter(writer, 10, 2)
    turns.slow_down(3600, halve=False)

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(turns.wait) for _ in range(4)]
        wait_until(lambda: all(future.running() for future in waiting))
        time.sleep(0.2)
        turns.close()
        assert [future.result(60) for future in waiting] == [False] * 4


@ON_SQLITE
def test_slowing_down_reaches_those_who_wait_already(writer: Writer) -> None:
    turns = RateLimiter(writer, 1, 1)
    assert turns.wait()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(turns.wait)
        time.sleep(0.2)
        begun = time.monotonic()
        turns.slow_down(2, halve=False)
        assert waiting.result(60)
    assert time.monotonic() - begun >= 1.9


def test_a_reservation_that_fails_reaches_whoever_asked(empty_database_url: str) -> None:
    """There is no table for it."""
    database = Database(empty_database_url)
    turns = RateLimiter(Writer(database), 10, 2)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(turns.wait) for _ in range(2)]:
            with pytest.raises(Unavailable, match="lookup_rate"):
                future.result(10)
    database.close()


def test_several_processes_that_begin_together_keep_the_rate_from_the_first_moment_on(
    database: Database, empty_database_url: str
) -> None:
    rate, number = 40, 40
    command = [sys.executable, "-c", PROGRAM, empty_database_url, str(rate), str(number)]

    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    moments = sorted(float(word) for process in processes for word in process.communicate(timeout=60)[0].split())

    assert len(moments) == 3 * number
    assert most_within(1.0, moments) <= rate
    assert moments[-1] - moments[0] < 2 * 3 * number / rate
    assert len(rows(database, lookup_rate)) == 1


@ON_POSTGRESQL
def test_two_first_reservations_at_the_same_moment_get_different_moments(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one row, which is locked later on, is not there yet."""
    writer = Writer(database)
    connected, both = threading.Barrier(2), threading.Barrier(2)

    reserve = Pace.reserve

    def slowly(pace: Pace, now: datetime, wanted: int, rate: int) -> tuple[Pace, list[datetime]]:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return reserve(pace, now, wanted, rate)

    monkeypatch.setattr(Pace, "reserve", slowly)

    with ThreadPoolExecutor(2) as threads:
        for opened in [threads.submit(write, database, lambda _: connected.wait(10)) for _ in range(2)]:
            opened.result()
        taken = [threads.submit(writer.reserve_slots, 2, 100, lead=timedelta(0), after_slowdown=1) for _ in range(2)]
        moments = sorted(moment for future in taken for moment in future.result(30).slots)

    gap = timedelta(seconds=SLACK / 100)
    assert all(later - one >= gap for one, later in itertools.pairwise(moments))
