"""Slots on real databases: threads, runs and processes leave one after the other, at the rate."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from reconciling import ON_POSTGRESQL, ON_SQLITE, most_within, rows
from running import PROCESSES
from sql import write
from until import until

from webapp.reconcile.rate_limiter import RateLimiter
from webapp.storage import lookup_rate
from webapp.storage.database import Database
from webapp.storage.errors import Unavailable
from webapp.storage.lookup_rate import SLACK, LookupRate
from webapp.storage.models import lookup_rate as table

if TYPE_CHECKING:
    from datetime import datetime
    from multiprocessing.connection import Connection


def leave_in_a_process(url: str, rate: int, number: int, times: Connection) -> None:
    database = Database(url)
    limiter = RateLimiter(database, rate, 3)

    def leave(_: int) -> float:
        assert limiter.wait()
        return time.monotonic()

    with ThreadPoolExecutor(6) as threads:
        times.send(list(threads.map(leave, range(number))))
    database.close()


@ON_SQLITE
def test_closing_wakes_all_threads_that_wait(database: Database) -> None:
    limiter = RateLimiter(database, 10, 2)
    limiter.slow_down(3600, halve=False)

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(limiter.wait) for _ in range(4)]
        until(lambda: all(future.running() for future in waiting))
        time.sleep(0.2)
        limiter.close()
        assert [future.result(60) for future in waiting] == [False] * 4


@ON_SQLITE
def test_slowing_down_reaches_threads_that_wait_already(database: Database) -> None:
    limiter = RateLimiter(database, 2, 1)
    assert limiter.wait()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(limiter.wait)
        time.sleep(0.2)
        begun = time.monotonic()
        limiter.slow_down(0.8, halve=False)
        assert waiting.result(60)
    assert time.monotonic() - begun >= 0.75


def test_a_reservation_that_fails_reaches_the_thread_that_asked(empty_database_url: str) -> None:
    """There is no table for it."""
    database = Database(empty_database_url)
    limiter = RateLimiter(database, 10, 2)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(limiter.wait) for _ in range(2)]:
            with pytest.raises(Unavailable, match="lookup_rate"):
                future.result(10)
    database.close()


def test_several_processes_that_begin_together_keep_the_rate_from_the_first_slot_on(
    database: Database, empty_database_url: str
) -> None:
    rate, number = 40, 20
    here, there = PROCESSES.Pipe(duplex=False)
    processes = [
        PROCESSES.Process(target=leave_in_a_process, args=(empty_database_url, rate, number, there)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    times = sorted(itertools.chain.from_iterable(here.recv() for _ in processes))
    for process in processes:
        process.join(60)

    assert len(times) == 3 * number
    assert most_within(1.0, times) <= rate
    assert times[-1] - times[0] < 2.5 * 3 * number / rate
    assert len(rows(database, table)) == 1


@ON_POSTGRESQL
def test_two_first_reservations_at_the_same_moment_get_different_slots(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one row, which is locked later on, is not there yet."""
    connected, both, reserve = threading.Barrier(2), threading.Barrier(2), LookupRate.reserve

    def slowly(current: LookupRate, now: datetime, count: int, rate: int) -> tuple[LookupRate, list[datetime]]:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return reserve(current, now, count, rate)

    monkeypatch.setattr(LookupRate, "reserve", slowly)
    with ThreadPoolExecutor(2) as threads:
        for opened in [threads.submit(write, database, lambda _: connected.wait(10)) for _ in range(2)]:
            opened.result()
        taken = [threads.submit(lookup_rate.reserve_slots, database, 2, rate=100) for _ in range(2)]
        slots = sorted(slot for future in taken for slot in future.result(30))

    # Each transaction reads the two clocks one after the other: some microseconds apart.
    assert all(later - one >= SLACK / 100 - 0.005 for one, later in itertools.pairwise(slots))
