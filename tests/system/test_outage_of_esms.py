"""What reconcile makes of an eSMS that is down, flaps, answers nonsense, or says that it is asked too fast."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING

import pytest
from makers import stored_call
from reconciling import (
    HOUR,
    ON_SQLITE,
    asked,
    change,
    claimed,
    counts,
    due,
    due_now,
    missing,
    most_in_a_second,
    reconciler,
    rows,
    runs,
)
from running import free_port

from webapp.esms.lookup import LookupAnswer
from webapp.reconcile.run import Clock, Progress, Reconciler
from webapp.storage.models import calls, lookup_rate
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciling import Command

    from webapp.esms.client import Client
    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database

DOWN = {"refused": "unreachable", "reset": "unreachable", "http-500": "http-500", "hang": "timeout"}
"""The ways in which it is down here, and what such a look-up is to us."""


def run(database: Database, watch: Callable[[Progress], None] = lambda _: None) -> Progress:
    return reconciler(database).run(due_now(), limit=None, stop=Event(), watch=watch)


def charged(database: Database) -> Counter[tuple[int, str | None]]:
    """How often so many look-ups are charged to a call, by that and by its last code."""
    return Counter((call["lookup_count"], call["last_lookup_code"]) for call in rows(database, calls))


def share(database: Database) -> float:
    (pace,) = rows(database, lookup_rate)
    return float(pace["share"])


# Down


@pytest.mark.parametrize("how", DOWN)
def test_when_esms_is_down_a_run_ends_soon_and_leaves_every_call_as_it_was(
    esms: Sandbox, database: Database, reconcile: Command, how: str
) -> None:
    reference_ids = missing(esms, database, 200)
    before = rows(database, calls)
    address = f"http://127.0.0.1:{free_port()}" if how == "refused" else esms.api_url
    esms.answer_all_with(how if how != "refused" else None)

    result = reconcile("--json", ESMS_API_URL=address)

    assert (result.exit_code, counts(result.stdout)) == (1, {})
    assert len(esms.lookups) <= 60
    assert f"Error: eSMS gives no sign of life ({DOWN[how]} " in result.stderr
    assert "No attempt is charged to a call" in result.stderr
    assert "not asked about: 200, because eSMS gives no sign of life; due as before" in result.stderr
    assert rows(database, calls) == before
    assert (due(database), claimed(database), runs(database)) == (reference_ids, [], ["failures"])


@pytest.mark.parametrize("concurrency", ["1", "16", "44", "256"])
@ON_SQLITE
def test_fewer_failures_than_make_an_outage_are_charged_to_their_calls(
    esms: Sandbox, database: Database, reconcile: Command, concurrency: str
) -> None:
    missing(esms, database, 29)
    esms.answer_all_with("http-500")

    with reconcile.beside("--json", RECONCILE_CONCURRENCY=concurrency) as process:
        code, summary, said = reconcile.end(process)

    assert (code, counts(summary)) == (1, {"checked": 29, "failed": 29})
    assert charged(database) == {(1, "http-500"): 29}
    assert "29 of 29 calls, settled 0, pending 0, failed 29" in said
    assert "no sign of life" not in said


@pytest.mark.parametrize("concurrency", ["1", "16", "44", "256"])
@pytest.mark.parametrize("number", [30, 50])
@ON_SQLITE
def test_a_run_without_any_sign_of_life_is_an_outage_also_where_few_calls_are_due(
    esms: Sandbox, database: Database, reconcile: Command, concurrency: str, number: int
) -> None:
    missing(esms, database, number)
    esms.answer_all_with("http-500")
    before = rows(database, calls)

    with reconcile.beside("--json", RECONCILE_CONCURRENCY=concurrency) as process:
        code, summary, said = reconcile.end(process)

    assert (code, counts(summary), len(esms.lookups)) == (1, {}, number)
    assert f"eSMS gives no sign of life (http-500 {number} times)" in said
    assert rows(database, calls) == before


def test_hundreds_of_calls_about_which_esms_never_answers_keep_no_other_from_its_turn(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """ESMS seems to be down while it is their turn: others, from the end of the order, show that it is not."""
    broken = missing(esms, database, 200, ago=2 * HOUR)
    esms.faults = dict.fromkeys(broken, "http-500")
    assert reconcile("--json").exit_code == 1
    assert charged(database) == {(0, None): 200}
    asked_about_before = missing(esms, database, 20)
    for name in asked_about_before:
        change(database, name, lookup_count=1, lookup_backoff=1, next_lookup_at=database.now())
    fresh = missing(esms, database, 20)

    for _ in range(4):
        assert reconcile("--json").exit_code == 1

    stored = {call["reference_id"]: call for call in rows(database, calls)}
    assert all(stored[name]["settled_at"] for name in [*fresh, *asked_about_before])
    assert sum(stored[name]["lookup_count"] == 1 for name in broken) >= 40
    assert claimed(database) == []


@pytest.mark.parametrize("fault", ["garbage", "wrong-reference", "104", "unknown-code", "redirect"])
@ON_SQLITE
def test_however_many_other_failures_are_no_outage(
    esms: Sandbox, database: Database, reconcile: Command, fault: str
) -> None:
    missing(esms, database, 70)
    esms.answer_all_with(fault)

    result = reconcile("--json")

    assert counts(result.stdout)["checked"] == len(esms.lookups) == 70
    assert {number for number, _ in charged(database)} == {1}
    assert "no sign of life" not in result.stderr


def test_an_outage_in_mid_run_is_charged_to_no_call_and_what_was_settled_stays(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 100)
    esms.faults = dict.fromkeys(reference_ids[10:], "reset")
    before = rows(database, calls)

    result = reconcile("--json", RECONCILE_CONCURRENCY="2")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 10, "settled": 10})
    assert "not asked about: 90" in result.stderr
    after = {call["reference_id"]: call for call in rows(database, calls)}
    assert [after[name] for name in reference_ids[10:]] == [
        call for name in reference_ids[10:] for call in before if call["reference_id"] == name
    ]

    esms.faults = {}
    assert counts(reconcile("--json").stdout) == {"checked": 90, "settled": 90}
    assert charged(database) == {(1, "100"): 100}


@ON_SQLITE
def test_failures_in_a_row_are_counted_from_the_last_sign_of_life_on(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 120)
    living = {name for place, name in enumerate(reference_ids, start=1) if place % 36 == 0}
    esms.faults = dict.fromkeys(set(reference_ids) - living, "reset")

    result = reconcile("--json", RECONCILE_CONCURRENCY="1")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 120, "settled": 3, "failed": 117})
    assert charged(database) == {(1, "100"): 3, (1, "unreachable"): 117}


@contextmanager
def flapping(esms: Sandbox, seconds: float) -> Iterator[None]:
    """ESMS is down and there in turn, for so long each."""
    over = threading.Event()

    def flap() -> None:
        down = False
        while not over.wait(seconds):
            down = not down
            esms.answer_all_with("reset" if down else None)

    thread = threading.Thread(target=flap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        esms.answer_all_with(None)


def test_an_esms_that_flaps_loses_no_call_and_charges_none_twice(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 300)
    with flapping(esms, 0.15):
        first = counts(reconcile("--json", RECONCILE_RATE="200").stdout)

    for number, code in charged(database):
        assert (number, code) in {(0, None), (1, "100"), (1, "unreachable")}
    assert first["checked"] == 300 - charged(database)[0, None]
    assert claimed(database) == []
    for call in rows(database, calls):
        if not call["settled_at"]:
            change(database, call["reference_id"], next_lookup_at=None)
    assert reconcile().exit_code == 0
    assert all(call["settled_at"] for call in rows(database, calls))


class Slow:
    """Asks an eSMS that is down, but for one call: about that it answers late."""

    def __init__(self, late: str) -> None:
        self._late = late

    def prepare(self) -> None:
        pass

    def look_up(self, reference_id: str) -> LookupAnswer:
        if reference_id != self._late:
            return LookupAnswer(reference_id, "unreachable", heard=False)
        time.sleep(0.5)
        return LookupAnswer(reference_id, "104")

    def close(self) -> None:
        pass


@ON_SQLITE
def test_esms_is_not_given_up_while_a_look_up_is_on_its_way(esms: Sandbox, database: Database) -> None:
    late, *_ = missing(esms, database, 80)
    client: Client = Slow(late)  # type: ignore[assignment]
    one = Reconciler(Writer(database), Reader(database), client, load_settings(), Clock(database.now))

    progress = one.run(due_now(), limit=None, stop=Event(), watch=lambda _: None)

    assert (progress.ended, progress.run.not_found, progress.run.failed) == (None, 1, 79)
    assert charged(database) == {(1, "104"): 1, (1, "unreachable"): 79}


# Too fast


@pytest.mark.parametrize("fault", ["160", "http-429", "http-503", "later"])
def test_whenever_esms_says_that_it_is_asked_too_fast_the_pace_of_all_runs_is_halved(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Once, for all that left at the same pace; and its calls are asked again in the same run."""
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "4")
    missing(esms, database, 12)
    esms.options = replace(esms.options, latency=0.1)
    esms.answer_all_with(fault)

    def mend(progress: Progress) -> None:
        if progress.slowed:
            esms.answer_all_with(None)

    progress = run(database, mend)

    assert 0.25 <= share(database) <= 0.5
    assert progress.slowed >= 1
    assert (progress.run.settled, progress.run.outcome) == (12, "done")
    assert charged(database) == {(1, "100"): 12}


@pytest.mark.parametrize("fault", ["http-429", "http-503"])
@ON_SQLITE
def test_a_call_for_which_that_is_all_that_esms_ever_says_has_failed_after_three_tries(
    esms: Sandbox, database: Database, reconcile: Command, fault: str
) -> None:
    stuck, *others = missing(esms, database, 4)
    esms.faults = {stuck: fault}

    result = reconcile("--json")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 4, "settled": 3, "failed": 1})
    assert Counter(asked(esms)) == {stuck: 3} | dict.fromkeys(others, 1)
    assert charged(database) == {(1, "100"): 3, (1, fault): 1}


@pytest.mark.parametrize(("fault", "reason"), [("http-503", "down"), ("http-429", "too fast"), ("160", "too fast")])
@ON_SQLITE
def test_an_esms_that_says_nothing_else_any_more_ends_the_run(
    esms: Sandbox, database: Database, fault: str, reason: str
) -> None:
    missing(esms, database, 100)
    esms.answer_all_with(fault)

    progress = run(database)

    assert (progress.ended, progress.run.outcome) == (reason, "failures")
    assert len(esms.lookups) <= (60 if reason == "down" else 150)
    assert charged(database)[0, None] == progress.unasked == 100 - progress.run.failed
    assert progress.run.failed <= (20 if fault == "http-429" else 0)


@pytest.mark.parametrize(("fault", "pause_seconds"), [("later", 1.0), ("later-date", 1.0)])
def test_while_esms_wants_to_be_left_alone_nothing_leaves_and_no_attempt_is_charged(
    esms: Sandbox, database: Database, reconcile: Command, fault: str, pause_seconds: float
) -> None:
    reference_ids = missing(esms, database, 20)
    esms.faults = {reference_ids[6]: fault}

    def mend() -> None:
        while not any(lookup.code == fault for lookup in esms.lookups):
            time.sleep(0.005)
        esms.faults = {}

    thread = threading.Thread(target=mend)
    thread.start()
    result = reconcile("--json", RECONCILE_RATE="50", RECONCILE_CONCURRENCY="4")
    thread.join()

    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 20, "settled": 20})
    (said_at,) = [lookup.at for lookup in esms.lookups if lookup.code == fault]
    # Of four at a time, three may have been on their way when it was said.
    after = sorted(lookup.at - said_at for lookup in esms.lookups if lookup.at > said_at)[3:]
    assert len(after) >= 8
    assert min(after) >= pause_seconds - 0.05
    assert Counter(asked(esms)) == Counter([*reference_ids, reference_ids[6]])
    assert charged(database) == {(1, "100"): 20}


@ON_SQLITE
def test_a_run_pauses_together_with_all_others(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 3)
    Writer(database).slow_down(1.5, halve=False)
    begun = time.monotonic()

    assert reconcile().exit_code == 0

    assert esms.lookups[0].at - begun >= 1.4


@ON_SQLITE
def test_a_run_whose_rate_is_over_esms_limit_settles_all_and_charges_nothing_for_it(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 25)
    esms.options = replace(esms.options, rate_limit=5)

    result = reconcile("--json", RECONCILE_RATE="20")

    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 25, "settled": 25})
    assert charged(database) == {(1, "100"): 25}
    too_fast = sum(lookup.code == "160" for lookup in esms.lookups)
    assert too_fast >= 1
    assert len(esms.lookups) == 25 + too_fast
    assert f"eSMS said {too_fast} times that we ask too fast" in result.stderr
    assert most_in_a_second(esms) <= 20 + 1


@ON_SQLITE
def test_no_time_to_wait_is_too_long_to_be_understood(esms: Sandbox, database: Database) -> None:
    """A header may say any number of seconds; the pause is an hour at the most."""
    missing(esms, database, 1)
    stop = Event()

    def watch(progress: Progress) -> None:
        if progress.slowed:
            stop.set()

    class Asked(Slow):
        def look_up(self, reference_id: str) -> LookupAnswer:
            return LookupAnswer(reference_id, "http-503", heard=False, retry_after=10**20)

    client: Client = Asked("")  # type: ignore[assignment]
    one = Reconciler(Writer(database), Reader(database), client, load_settings(), Clock(database.now))

    progress = one.run(due_now(), limit=None, stop=stop, watch=watch)

    assert (progress.run.outcome, progress.unasked, progress.slowed) == ("interrupted", 1, 1)
    (pace,) = rows(database, lookup_rate)
    assert timedelta(minutes=59) < pace["next_at"] - database.now() <= timedelta(hours=1)
    assert stored_call(database, rows(database, calls)[0]["reference_id"]).lookup_count == 0
