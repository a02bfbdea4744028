"""Many reconcile runs on one database: they share calls and rate, and settle what a killed run has left."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import pytest
from makers import callback, change_by_hand, stored_call, stored_reports
from reconciling import (
    HOUR,
    MINUTE,
    ON_POSTGRESQL,
    ON_SQLITE,
    asked,
    change,
    claimed,
    counts,
    due_now,
    is_about,
    missing,
    most_in_a_second,
    reconciler,
    rows,
    runs,
)
from sql import write
from until import until

from webapp.esms.client import Client
from webapp.reconcile import dispatcher
from webapp.reconcile import run as reconcile_run
from webapp.reconcile.clock import DatabaseClock
from webapp.reconcile.run import Reconciler
from webapp.storage import claims, lookup_rate
from webapp.storage import runs as runs_of_storage
from webapp.storage.claims import lease_of
from webapp.storage.errors import Unavailable
from webapp.storage.models import calls, reconcile_runs
from webapp.storage.runs import Run
from webapp.storage.writer import Writer
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from reconciling import Command

    from webapp.esms.lookup import LookupAnswer, LookupRequest
    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database


def settled(database: Database) -> int:
    return sum(call["settled_at"] is not None for call in rows(database, calls))


def let_the_lease_be_over(database: Database) -> None:
    """As if all that was claimed and seen had been so a lease ago."""
    ago = lease_of(load_settings())
    for run in rows(database, reconcile_runs):
        if run["finished_at"] is None:
            times = {name: run[name] - ago for name in ("started_at", "seen_at") if run[name]}
            statement = reconcile_runs.update().where(reconcile_runs.c.id == run["id"]).values(times)
            write(database, lambda connection, statement=statement: connection.execute(statement))  # type: ignore[misc]
    for reference_id in claimed(database):
        change(database, reference_id, claimed_until=datetime.now(UTC))


# The calls and the rate


def test_runs_share_the_calls_and_the_rate_and_none_is_asked_about_twice(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 90)
    esms.options = replace(esms.options, latency=0.1)
    few = {"RECONCILE_CONCURRENCY": "6", "RECONCILE_RATE": "45"}

    with ExitStack() as running:
        all_of_them = [running.enter_context(reconcile.beside("--json", **few)) for _ in range(3)]
        ends = [reconcile.end(process) for process in all_of_them]

    assert ([code for code, _, _ in ends], runs(database)) == ([0, 0, 0], ["done"] * 3)
    shares = [json.loads(summary)["settled"] for _, summary, _ in ends]
    assert (sum(shares), settled(database), claimed(database)) == (90, 90, [])
    assert sum(share > 0 for share in shares) >= 2
    assert esms.overlaps == []
    assert sorted(asked(esms)) == sorted(reference_ids)
    assert most_in_a_second(esms) <= 45 + 1
    assert esms.lookups[-1].at - esms.lookups[0].at < 2.5 * 90 / 45


# What a killed run leaves


def test_a_killed_run_leaves_few_calls_claimed_and_another_run_settles_everything(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESMS_TIMEOUT", "20s")  # the leases of the killed run last longer than the next run
    reference_ids = missing(esms, database, 30)
    esms.options = replace(esms.options, latency=0.2)
    with reconcile.beside(RECONCILE_CONCURRENCY="3") as process:
        until(lambda: len(esms.lookups) >= 9)
        process.kill()
        process.wait()
    left_claimed, before = claimed(database), settled(database)
    leases = [call["claimed_until"] for call in rows(database, calls) if call["claimed_until"]]

    first = counts(reconcile("--json").stdout)

    assert 1 <= len(left_claimed) <= 2 * 3
    assert max(leases) - datetime.now(UTC) <= lease_of(load_settings())
    assert before + first["settled"] + len(left_claimed) == 30
    assert sorted(claimed(database)) == sorted(left_claimed)
    assert runs(database) == [None, "done"]

    let_the_lease_be_over(database)
    second = counts(reconcile("--json").stdout)

    assert (second["settled"], settled(database)) == (len(left_claimed), 30)
    assert runs(database) == ["died", "done", "done"]
    assert esms.overlaps == []
    times = Counter(asked(esms))
    assert times.keys() == set(reference_ids)
    assert max(times.values()) <= 2
    assert {reference_id for reference_id in times if times[reference_id] == 2} <= set(left_claimed)


@ON_SQLITE
def test_no_look_up_leaves_before_the_run_is_recorded(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be killed at any moment, and then its row is all that is known of it."""
    missing(esms, database, 8)
    start_run, asked_before = runs_of_storage.start_run, []

    def start_late(database: Database, run: Run, *, lease: timedelta) -> None:
        time.sleep(0.3)
        asked_before.extend(asked(esms))
        start_run(database, run, lease=lease)

    monkeypatch.setattr(runs_of_storage, "start_run", start_late)
    progress = reconciler(database).run(due_now(), limit=None, stop=Event(), watch=lambda _: None)

    assert (progress.run.settled, runs(database), asked_before) == (8, ["done"], [])


@ON_SQLITE
def test_calls_that_a_killed_run_has_claimed_are_free_three_timeouts_later(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(UTC)
    missing(esms, database, 8)
    esms.options = replace(esms.options, latency=0.5)
    with reconcile.beside() as process:
        until(lambda: len(esms.lookups) == 8)
        process.kill()
        process.wait()
    (leased_until,) = {call["claimed_until"] for call in rows(database, calls)}
    assert began < leased_until - 3 * load_settings().esms_timeout < datetime.now(UTC)
    esms.options = replace(esms.options, latency=0)

    monkeypatch.setattr(DatabaseClock, "now", lambda _: leased_until - timedelta(milliseconds=1))
    assert "another run has claimed all of the 8 calls" in reconcile().stdout
    monkeypatch.setattr(DatabaseClock, "now", lambda _: leased_until)
    assert counts(reconcile("--json").stdout) == {"checked": 8, "settled": 8}
    assert runs(database) == ["died", "done"]


def test_a_run_is_closed_as_died_only_once_it_was_not_seen_for_a_lease(database: Database) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    silent = Run(id=UUID(int=1), started_at=now - HOUR, seen_at=now - MINUTE, host="a")
    never_seen = Run(id=UUID(int=2), started_at=now - MINUTE, host="a")
    alive = Run(id=UUID(int=3), started_at=now - HOUR, seen_at=now - MINUTE + timedelta(seconds=2), host="a")
    ended = Run(id=UUID(int=4), started_at=now - HOUR, finished_at=now - HOUR, outcome="done", host="a")
    for run in (silent, never_seen, alive, ended):
        runs_of_storage.start_run(database, run, lease=10 * HOUR)
    lease = MINUTE - timedelta(seconds=1)

    runs_of_storage.start_run(database, Run(id=UUID(int=5), started_at=now, host="a"), lease=lease)

    outcomes = {run["id"]: (run["outcome"], run["finished_at"]) for run in rows(database, reconcile_runs)}
    assert outcomes == {
        UUID(int=1): ("died", now - MINUTE),
        UUID(int=2): ("died", now - MINUTE),
        UUID(int=3): (None, None),
        UUID(int=4): ("done", now - HOUR),
        UUID(int=5): (None, None),
    }


@ON_SQLITE
def test_a_run_saves_every_two_seconds_that_it_was_seen_and_renews_its_leases(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it gets no answer all the while. Its clock is put half a second ahead each time that it looks."""
    monkeypatch.setenv("ESMS_TIMEOUT", "9s")
    monkeypatch.setattr(dispatcher, "_TICK_SECONDS", 0.01)
    missing(esms, database, 1)
    look_up, may_answer = Client.look_up, Event()
    ahead, monotonic = [0.0], time.monotonic
    seen: dict[datetime | None, float] = {}
    kept: dict[datetime | None, float] = {}

    def late(client: Client, request: LookupRequest, **given: Any) -> LookupAnswer:
        may_answer.wait(20)
        return look_up(client, request, **given)

    def watch(_: object) -> None:
        (run,), (call,) = rows(database, reconcile_runs), rows(database, calls)
        seen.setdefault(run["seen_at"], ahead[0])
        kept.setdefault(call["claimed_until"], ahead[0])
        ahead[0] += 0.5
        if ahead[0] >= 13:
            may_answer.set()

    monkeypatch.setattr(Client, "look_up", late)
    monkeypatch.setattr(reconcile_run, "time", SimpleNamespace(monotonic=lambda: monotonic() + ahead[0]))
    reconciler(database).run(due_now(), limit=None, stop=Event(), watch=watch)

    assert all(later - earlier <= 2 for earlier, later in itertools.pairwise(seen.values()))
    assert len(seen) >= 1 + 13 / 2
    assert all(later - earlier <= 9 / 2 + 2 for earlier, later in itertools.pairwise(kept.values()))
    assert len(kept) >= 1 + 2


# After the end of a lease


@ON_SQLITE
def test_a_run_that_was_stopped_past_its_lease_asks_no_more_about_calls_that_others_have_since(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESMS_TIMEOUT", "1s")
    reference_ids = missing(esms, database, 10)
    esms.options = replace(esms.options, latency=0.5)
    with reconcile.beside(RECONCILE_CONCURRENCY="2") as stopped:
        until(lambda: len(esms.lookups) >= 4 and settled(database) >= 2)
        time.sleep(0.2)  # so that it is asking, and holds no lock
        stopped.send_signal(signal.SIGSTOP)
        left_claimed = claimed(database)
        left_free = 10 - settled(database) - len(left_claimed)
        assert 2 <= len(left_claimed) <= 4
        leases = [call["claimed_until"] for call in rows(database, calls) if call["claimed_until"]]
        esms.options = replace(esms.options, latency=0)
        assert counts(reconcile("--json").stdout) == {"checked": left_free, "settled": left_free}
        time.sleep(max(0.0, (max(leases) - datetime.now(UTC)).total_seconds() + 0.1))
        esms.options = replace(esms.options, latency=0.5)
        with reconcile.beside("--json", RECONCILE_CONCURRENCY="8") as other:
            before = len(esms.lookups)
            until(lambda: len(esms.lookups) >= before + len(left_claimed))
            stopped.send_signal(signal.SIGCONT)
            code, summary, _ = reconcile.end(other)
        stopped.wait(timeout=20)

    assert (code, counts(summary)["settled"]) == (0, len(left_claimed))
    assert esms.overlaps == []
    assert (settled(database), claimed(database)) == (10, [])
    times = Counter(asked(esms))
    assert times.keys() == set(reference_ids)
    assert max(times.values()) <= 2


@ON_SQLITE
def test_a_look_up_whose_answer_might_come_after_the_lease_does_not_leave(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease lasts for as long as ESMS_TIMEOUT here: another run may have the call before the answer is there."""
    monkeypatch.setenv("ESMS_TIMEOUT", "1s")
    monkeypatch.setattr(claims, "_LEASE_TIMEOUTS", 1)
    monkeypatch.setattr(Reconciler, "_save_now_and_then", lambda *_: None)  # which would renew it
    (reference_id,) = missing(esms, database, 1)

    progress = reconciler(database).run(due_now(), limit=None, stop=Event(), watch=lambda _: None)

    assert (asked(esms), progress.run.checked) == ([], 0)
    assert not stored_call(database, reference_id).settled


@ON_SQLITE
def test_answers_that_take_nearly_as_long_as_esms_timeout_are_waited_for_and_no_call_is_asked_about_by_two(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 12)
    esms.options = replace(esms.options, latency=0.7)
    with reconcile.beside(RECONCILE_CONCURRENCY="2") as one, reconcile.beside(RECONCILE_CONCURRENCY="2") as other:
        ends = [reconcile.end(process)[0] for process in (one, other)]

    assert (ends, esms.overlaps, sorted(asked(esms))) == ([0, 0], [], sorted(reference_ids))


@ON_SQLITE
def test_calls_that_turn_out_to_be_another_runs_are_not_asked_about(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for a slot while the run tries to renew their leases."""
    monkeypatch.setattr(reconcile_run, "_SAVE_SECONDS", 0.1)
    monkeypatch.setattr(claims, "renew", lambda *_: set())
    missing(esms, database, 3)
    lookup_rate.slow_down(database, 0.8, halve=False)

    progress = reconciler(database).run(due_now(), limit=None, stop=Event(), watch=lambda _: None)

    assert (asked(esms), progress.run.checked) == ([], 0)


def test_a_run_that_breaks_off_releases_its_calls_once_no_look_up_is_in_flight(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another run would ask about the same calls at the same time."""
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "4")
    reference_ids = missing(esms, database, 12)
    esms.options = replace(esms.options, latency=0.2)
    release, look_up = claims.release, Client.look_up
    in_flight: set[str] = set()
    at_release: list[int] = []

    def counted(client: Client, request: LookupRequest, **given: Any) -> LookupAnswer:
        in_flight.add(request.reference_id)
        try:
            return look_up(client, request, **given)
        finally:
            in_flight.discard(request.reference_id)

    def conclude(*_: object, **__: object) -> NoReturn:
        until(lambda: in_flight)
        raise Unavailable("gone")

    def watched(database: Database, leases: dict[str, datetime]) -> None:
        at_release.append(len(in_flight))
        release(database, leases)

    monkeypatch.setattr(Client, "look_up", counted)
    monkeypatch.setattr(Writer, "conclude", conclude)
    monkeypatch.setattr(claims, "release", watched)
    with pytest.raises(Unavailable):
        reconciler(database).run(due_now(), limit=None, stop=Event(), watch=lambda _: None)

    assert at_release == [0]
    assert (claimed(database), runs(database)) == ([], ["died"])
    assert {stored_call(database, reference_id).lookup_count for reference_id in reference_ids} == {0}


# Clocks that disagree


@pytest.mark.parametrize("minutes", [-7, 7])
@ON_POSTGRESQL
def test_a_machine_whose_clock_is_wrong_goes_by_the_databases(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """Only received_at of a report is by the receiver's clock."""
    begun = datetime.now(UTC)
    due, not_due, failing = missing(esms, database, 3, ago=5 * MINUTE)
    change(database, due, placed_at=begun - 10 * MINUTE - timedelta(seconds=5))
    change(database, not_due, placed_at=begun - 9 * MINUTE)
    change(database, failing, placed_at=begun - 10 * MINUTE - timedelta(seconds=4))
    esms.faults = {failing: "garbage"}
    until: list[datetime] = []

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Wrong:
            return cls.fromtimestamp(time.time() + 60 * minutes, tz)

    for name in ("esms.client", "storage.database", "cli.reconcile"):
        monkeypatch.setattr(f"webapp.{name}.datetime", Wrong)
    claim = claims.claim

    def watched(*arguments: Any, **words: Any) -> Any:
        until.append(words["until"])
        return claim(*arguments, **words)

    monkeypatch.setattr(claims, "claim", watched)

    result = reconcile("--json")

    assert result.exit_code == 1
    assert sorted(asked(esms)) == sorted([due, failing])
    call = stored_call(database, failing)
    assert is_about(call.next_lookup_at, 5 * MINUTE, begun)
    (run,) = rows(database, reconcile_runs)
    for moment in (run["started_at"], run["seen_at"], run["finished_at"]):
        assert begun - timedelta(seconds=1) <= moment <= datetime.now(UTC) + timedelta(seconds=1)
    lease = lease_of(load_settings())
    assert all(begun <= moment - lease <= datetime.now(UTC) for moment in until)


def test_the_databases_clock_is_read_again_after_ten_seconds_or_if_a_reading_took_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, reading, took = [100.0], datetime(2026, 11, 23, tzinfo=UTC), [0.0]
    read: list[float] = []
    monkeypatch.setattr("webapp.reconcile.clock.time.monotonic", lambda: here[0])

    class FakeDatabase:
        def now(self) -> datetime:
            read.append(here[0])
            here[0] += took[0]
            return reading + timedelta(seconds=here[0] - took[0])

    clock = DatabaseClock(FakeDatabase())  # type: ignore[arg-type]
    assert clock.now() == reading + timedelta(seconds=100)
    here[0] = 109.0
    assert (clock.now(), len(read)) == (reading + timedelta(seconds=109), 1)
    here[0], took[0] = 110.5, 30.0
    assert clock.now() == reading + timedelta(seconds=110.5)
    took[0] = 0.0
    assert clock.now() == reading + timedelta(seconds=140.5)
    assert len(read) == 3


# Callbacks that come meanwhile


@pytest.mark.parametrize("effect_of_look_up", ["confirmed", "corrected"])
def test_a_callback_in_the_middle_of_a_look_up_counts_by_the_rule(
    esms: Sandbox, database: Database, effect_of_look_up: str
) -> None:
    """It settles the call; then the look-up confirms it, or corrects what the callback said."""
    (reference_id,) = missing(esms, database, 1)
    truth = esms.calls[reference_id]
    esms.options = replace(esms.options, latency=0.4)
    said = truth.lookup_status if effect_of_look_up == "confirmed" else "BUSY"

    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(reconciler(database).run, due_now(), limit=None, stop=Event(), watch=lambda _: None)
        until(lambda: esms.lookups)
        now = datetime.now(UTC)
        (effect,) = Writer(database).record([callback(reference_id, received_at=now, call_status=said)], now)
        progress = run.result()

    assert effect == "settled"
    assert (progress.run.settled, progress.run.outcome) == (1, "done")
    call = stored_call(database, reference_id)
    assert (call.call_status, call.settled_by, call.conflict) == (truth.lookup_status, "callback", False)
    assert (call.lookup_count, call.next_lookup_at, claimed(database)) == (1, None, [])
    with database.snapshot(limited=False) as connection:
        effects = [row[0] for row in connection.exec_driver_sql("SELECT effect FROM status_reports ORDER BY id")]
    assert effects == ["settled", effect_of_look_up]


def test_a_callback_that_settles_the_call_in_the_middle_of_a_look_up_that_fails_wins(
    esms: Sandbox, database: Database
) -> None:
    (reference_id,) = missing(esms, database, 1)
    esms.options = replace(esms.options, latency=0.4)
    esms.faults = {reference_id: "garbage"}

    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(reconciler(database).run, due_now(), limit=None, stop=Event(), watch=lambda _: None)
        until(lambda: esms.lookups)
        now = datetime.now(UTC)
        Writer(database).record([callback(reference_id, received_at=now, call_status="BUSY")], now)
        run.result()

    call = stored_call(database, reference_id)
    assert (call.call_status, call.next_lookup_at, call.lookup_count) == ("BUSY", None, 1)
    assert len(stored_reports(database, reference_id)) == 1


# The order


def test_calls_never_asked_about_come_first_however_long_others_are_due(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """Of these, also one that a person inserted as registered."""
    broken = missing(esms, database, 1000, ago=10 * HOUR)
    change_by_hand(
        database,
        "UPDATE calls SET lookup_count = 7, lookup_backoff = 7, next_lookup_at = placed_at",
    )
    esms.faults = dict.fromkeys(broken, "garbage")
    new = missing(esms, database, 3)
    change_by_hand(database, "INSERT INTO calls (reference_id) VALUES ('by-hand')")
    at = datetime.now(UTC) - 30 * MINUTE
    change(database, "by-hand", placed_at=at, registered_at=at)

    reconcile("--limit", "8", RECONCILE_CONCURRENCY="1")

    assert asked(esms) == [*new, "by-hand", *broken[:4]]
