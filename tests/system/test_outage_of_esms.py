"""What reconcile makes of an eSMS that does not answer, flaps, answers nonsense, or rate-limits look-ups."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING

import pytest
from makers import stored_call
from reconciling import (
    HOUR,
    MINUTE,
    ON_SQLITE,
    asked,
    change,
    claimed,
    counts,
    due,
    due_now,
    is_about,
    missing,
    most_in_a_second,
    reconciler,
    rows,
    runs,
)
from running import free_port

from webapp.esms.lookup import LookupAnswer, LookupRequest
from webapp.reconcile.run import Progress, Reconciler
from webapp.storage import lookup_rate
from webapp.storage.models import calls
from webapp.storage.models import lookup_rate as lookup_rate_table
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciling import Command

    from webapp.esms.client import Client
    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database

DOWN = {
    "refused": "unreachable",
    "reset": "unreachable",
    "http-500": "http-500",
    "hang": "timeout",
    "http-503": "http-503",
}
"""The ways in which eSMS does not answer here, and the code of such a look-up."""
HARDLY_SLOWER = 0.5
"""The share to which the rate may fall, where it is about how many look-ups leave: more of them leave in time so."""


def run(database: Database, watch: Callable[[Progress], None] = lambda _: None) -> Progress:
    return reconciler(database).run(due_now(), limit=None, stop=Event(), watch=watch)


def charged(database: Database) -> Counter[tuple[int, str | None]]:
    """How many calls there are by their number of charged look-ups and their last code."""
    return Counter((call["lookup_count"], call["last_lookup_code"]) for call in rows(database, calls))


def share(database: Database) -> float:
    (rate,) = rows(database, lookup_rate_table)
    return float(rate["share"])


# No answer


@pytest.mark.parametrize("how", DOWN)
@ON_SQLITE
def test_30_look_ups_in_a_row_without_an_answer_end_the_run_and_each_is_charged(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(lookup_rate, "SMALLEST_SHARE", HARDLY_SLOWER)
    reference_ids = missing(esms, database, 200)
    address = f"http://127.0.0.1:{free_port()}" if how == "refused" else esms.api_url
    esms.answer_all_with(how if how != "refused" else None)
    began = datetime.now(UTC)
    # All at once, and with the shortest time-out, where each takes as long as that.
    quick = {"ESMS_TIMEOUT": "1s", "RECONCILE_CONCURRENCY": "32"} if how == "hang" else {}

    result = reconcile("--json", ESMS_API_URL=address, **quick)

    number = counts(result.stdout)["checked"]
    assert 30 <= number <= 60
    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": number, "failed": number})
    assert f"Error: eSMS does not answer ({DOWN[how]} {number}; 127.0.0.1): it is down, or " in result.stderr
    assert f"not asked about: {200 - number}, because eSMS does not answer; they stay due" in result.stderr
    assert charged(database) == {(1, DOWN[how]): number, (0, None): 200 - number}
    for call in rows(database, calls):
        if call["lookup_count"]:
            assert is_about(call["next_lookup_at"], 5 * MINUTE, began)
    assert len(due(database)) == 200 - number
    assert set(due(database)) <= set(reference_ids)
    assert (claimed(database), runs(database)) == ([], ["failures"])


@pytest.mark.parametrize("concurrency", ["1", "44", "256"])
@pytest.mark.parametrize("fault", ["http-500", "http-503"])
@ON_SQLITE
def test_whatever_the_concurrency_at_most_60_requests_leave_without_an_answer(
    esms: Sandbox, database: Database, reconcile: Command, concurrency: str, fault: str
) -> None:
    missing(esms, database, 300)
    esms.answer_all_with(fault)

    constants = json.dumps({"webapp.storage.lookup_rate.SMALLEST_SHARE": HARDLY_SLOWER})
    with reconcile.beside("--json", RECONCILE_CONCURRENCY=concurrency, CONSTANTS=constants) as process:
        code, summary, _ = reconcile.end(process)

    assert 30 <= len(esms.lookups) <= 60
    assert (code, counts(summary)) == (1, {"checked": len(esms.lookups), "failed": len(esms.lookups)})


def test_the_next_run_begins_with_other_calls(esms: Sandbox, database: Database, reconcile: Command) -> None:
    """Hundreds of calls about which eSMS never answers delay no other for long."""
    broken = missing(esms, database, 100, ago=2 * HOUR)
    esms.faults = dict.fromkeys(broken, "http-500")
    fresh = missing(esms, database, 20)

    for _ in range(4):
        assert reconcile("--json").exit_code in {0, 1}

    stored = {call["reference_id"]: call for call in rows(database, calls)}
    assert all(stored[name]["settled_at"] for name in fresh)
    assert charged(database) == {(1, "100"): 20, (1, "http-500"): 100}
    assert Counter(asked(esms)) == dict.fromkeys([*broken, *fresh], 1)
    assert claimed(database) == []


@ON_SQLITE
def test_fewer_than_30_are_failures_of_their_calls(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 29)
    esms.answer_all_with("http-500")

    result = reconcile("--json")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 29, "failed": 29})
    assert charged(database) == {(1, "http-500"): 29}
    assert "29 of 29 calls, settled 0, pending 0, failed 29" in result.stderr
    assert "does not answer" not in result.stderr


@pytest.mark.parametrize("fault", ["garbage", "wrong-reference", "104", "unknown-code", "redirect"])
@ON_SQLITE
def test_any_number_of_other_failures_is_no_outage(
    esms: Sandbox, database: Database, reconcile: Command, fault: str
) -> None:
    missing(esms, database, 70)
    esms.answer_all_with(fault)

    result = reconcile("--json")

    assert counts(result.stdout)["checked"] == len(esms.lookups) == 70
    assert {number for number, _ in charged(database)} == {1}
    assert "does not answer" not in result.stderr


def test_when_esms_goes_down_in_mid_run_what_was_settled_stays_and_the_rest_is_settled_later(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 100)
    esms.faults = dict.fromkeys(reference_ids[10:], "reset")

    result = reconcile("--json", RECONCILE_CONCURRENCY="2")

    found = counts(result.stdout)
    assert (result.exit_code, found["settled"]) == (1, 10)
    assert 30 <= found["failed"] <= 60
    assert f"not asked about: {90 - found['failed']}" in result.stderr
    assert len(due(database)) == 90 - found["failed"]

    esms.faults = {}
    for call in rows(database, calls):
        if not call["settled_at"]:
            change(database, call["reference_id"], next_lookup_at=None)
    assert counts(reconcile("--json").stdout) == {"checked": 90, "settled": 90}
    assert charged(database) == {(1, "100"): 100 - found["failed"], (2, "100"): found["failed"]}


@ON_SQLITE
def test_look_ups_without_an_answer_are_counted_from_the_last_answer_on(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 120)
    answered = {name for place, name in enumerate(reference_ids, start=1) if place % 29 == 0}
    esms.faults = dict.fromkeys(set(reference_ids) - answered, "reset")

    result = reconcile("--json", RECONCILE_CONCURRENCY="1")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 120, "settled": 4, "failed": 116})
    assert charged(database) == {(1, "100"): 4, (1, "unreachable"): 116}


@contextmanager
def flapping(esms: Sandbox, seconds: float) -> Iterator[None]:
    """ESMS is down and up again and again, for that long each."""
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
    missing(esms, database, 200)
    with flapping(esms, 0.1):
        first = counts(reconcile("--json", RECONCILE_RATE="200", ESMS_TIMEOUT="20s").stdout)

    for number, code in charged(database):
        assert (number, code) in {(0, None), (1, "100"), (1, "unreachable")}
    assert first["checked"] == 200 - charged(database)[0, None]
    assert claimed(database) == []
    for call in rows(database, calls):
        if not call["settled_at"]:
            change(database, call["reference_id"], next_lookup_at=None)
    assert reconcile(ESMS_TIMEOUT="20s").exit_code == 0
    assert all(call["settled_at"] for call in rows(database, calls))


# Rate limits


@pytest.mark.parametrize("fault", ["160", "http-429", "http-503", "later"])
@ON_SQLITE
def test_whenever_esms_rate_limits_a_look_up_the_rate_of_all_runs_is_halved(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Once for all that left at the same rate; its calls are asked about again in the same run.

    But on a 503 only those whose look-up ends after eSMS has answered in this run.
    """
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "4")
    missing(esms, database, 12)
    esms.options = replace(esms.options, latency=0.1)
    esms.answer_all_with(fault)

    def mend(progress: Progress) -> None:
        if progress.slowed_down:
            esms.answer_all_with(None)

    progress = run(database, mend)

    # Four at once halve it once. Those that leave while answers are gathered (0.2 s) may be rate-limited, too.
    assert 0.12 <= share(database) <= 0.5
    assert progress.slowed_down >= 1
    if fault in {"http-503", "later"}:
        assert 1 <= progress.run.failed <= 8
        assert charged(database) == {(1, "100"): 12 - progress.run.failed, (1, "http-503"): progress.run.failed}
    else:
        assert (progress.run.settled, progress.run.outcome) == (12, "done")
        assert charged(database) == {(1, "100"): 12}


@ON_SQLITE
def test_during_a_retry_after_no_look_up_leaves_and_the_call_is_asked_about_again(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 20)
    esms.faults = {reference_ids[6]: "later"}

    def mend() -> None:
        while not any(lookup.code == "later" for lookup in esms.lookups):
            time.sleep(0.005)
        esms.faults = {}

    thread = threading.Thread(target=mend)
    thread.start()
    result = reconcile("--json", RECONCILE_RATE="50", RECONCILE_CONCURRENCY="4")
    thread.join()

    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 20, "settled": 20})
    (limited_at,) = [lookup.at for lookup in esms.lookups if lookup.code == "later"]
    # Of four at a time, three may have been in flight when it came.
    after = sorted(lookup.at - limited_at for lookup in esms.lookups if lookup.at > limited_at)[3:]
    assert len(after) >= 8
    assert min(after) >= 1 - 0.05
    assert Counter(asked(esms)) == Counter([*reference_ids, reference_ids[6]])
    assert charged(database) == {(1, "100"): 20}


@ON_SQLITE
def test_a_run_pauses_together_with_all_others(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 3)
    lookup_rate.slow_down(database, 0.5, halve=False)
    begun = time.monotonic()

    assert reconcile().exit_code == 0

    assert esms.lookups[0].at - begun >= 0.45


@ON_SQLITE
def test_a_run_whose_rate_is_over_esms_limit_settles_all_calls(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 25)
    esms.options = replace(esms.options, rate_limit=10)

    result = reconcile("--json", RECONCILE_RATE="20")

    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 25, "settled": 25})
    assert charged(database) == {(1, "100"): 25}
    limited = sum(lookup.code == "160" for lookup in esms.lookups)
    assert limited >= 1
    assert len(esms.lookups) == 25 + limited
    assert f"look-ups rate-limited by eSMS (code 160, HTTP 429 or 503): {limited}." in result.stderr
    assert most_in_a_second(esms) <= 20 + 1


@ON_SQLITE
def test_the_longest_pause_is_an_hour(esms: Sandbox, database: Database) -> None:
    """Retry-After may have any number of seconds."""
    missing(esms, database, 1)
    stop = Event()

    def watch(progress: Progress) -> None:
        if progress.slowed_down:
            stop.set()

    class Busy:
        def look_up(self, request: LookupRequest, **_: object) -> LookupAnswer:
            return LookupAnswer(request.reference_id, "http-429", retry_after_seconds=10**20)

        def close(self) -> None:
            pass

    client: Client = Busy()  # type: ignore[assignment]
    one = Reconciler(database, client, load_settings())

    progress = one.run(due_now(), limit=None, stop=stop, watch=watch)

    assert (progress.run.outcome, progress.unasked, progress.slowed_down) == ("interrupted", 1, 1)
    (rate,) = rows(database, lookup_rate_table)
    assert timedelta(minutes=59) < rate["next_slot_at"] - database.now() <= timedelta(hours=1)
    assert stored_call(database, rows(database, calls)[0]["reference_id"]).lookup_count == 0
