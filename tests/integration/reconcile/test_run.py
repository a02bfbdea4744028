"""Reconcile runs, over real HTTP against the sandbox of eSMS: whatever it answers, every call is asked about.

After each test all that was printed, logged and stored is searched for keys, tokens and passwords.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import pytest
from constants import API_KEY, SECRET_KEY
from makers import callback, stored_call, stored_reports
from peers import ANSWERS, Peer, peer
from reconciling import (
    COUNTS,
    DAY,
    GIVE_UP,
    HOUR,
    MINUTE,
    ON_SQLITE,
    PASSWORD,
    Command,
    asked,
    change,
    claimed,
    counts,
    due,
    due_now,
    everything,
    in_conflict,
    is_about,
    make_due,
    missing,
    reconciler,
    rows,
    runs,
    shown_secrets,
)
from running import free_port
from sqlalchemy import text
from until import until

from webapp.esms.client import Client
from webapp.esms.sandbox import faults
from webapp.reconcile.failures import NAMED_FAILURES
from webapp.storage import claims
from webapp.storage.database import Database
from webapp.storage.errors import Unavailable
from webapp.storage.models import calls, lookup_rate, reconcile_runs
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from webapp.esms.sandbox.service import Sandbox
    from webapp.reconcile.run import Progress
    from webapp.storage.claims import Claimed

REFUSING = ("101", "140", "143")
FAULTS = [fault for fault in ANSWERS if fault not in {*REFUSING, "160", "later", "later-date"}]
"""The faults that are an answer about one call, and not about the account or the rate."""


def named_failures(shown: str) -> dict[str, list[str]]:
    """The calls that a summary names, by the code with which their look-ups failed."""
    named: dict[str, list[str]] = {}
    code = ""
    for line in shown.splitlines():
        if line.startswith("failed with "):
            code = line.split()[2].rstrip(":")
            named[code] = []
        elif code and line.startswith("  "):
            named[code].append(line.strip())
        else:
            code = ""
    return named


# What becomes of each call


def test_a_fault_is_the_failed_look_up_of_one_call_and_never_the_end_of_the_run(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    *faulty, honest = missing(esms, database, len(FAULTS) + 1)
    esms.faults = dict(zip(faulty, FAULTS, strict=True))

    with reconcile.beside() as process:
        code, shown, _ = reconcile.end(process)

    assert code == 1
    failures: dict[str, list[str]] = {}
    for reference_id, fault in [*esms.faults.items(), (honest, "bom")]:
        answer, _, kind = ANSWERS[fault]
        call = stored_call(database, reference_id)
        assert (call.last_lookup_code, call.lookup_count, call.settled) == (answer, 1, kind == "final")
        if kind == "failed":
            failures.setdefault(answer, []).append(reference_id)
    named = named_failures(shown)
    assert {code: sorted(named[code]) for code in named} == {code: sorted(failures[code]) for code in failures}
    (run,) = rows(database, reconcile_runs)
    kinds = Counter([ANSWERS[fault][2] for fault in FAULTS])
    assert [run[name] for name in COUNTS] == [
        len(FAULTS) + 1,
        kinds["final"] + 1,
        kinds["pending"],
        kinds["not_found"],
        kinds["failed"],
        0,
    ]
    assert (run["outcome"], claimed(database)) == ("failures", [])


def test_of_many_failures_the_first_are_named_and_the_others_counted(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 22)
    esms.answer_all_with("http-500")

    result = reconcile("--json")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 22, "failed": 22})
    *named, last = named_failures(result.stderr)["http-500"]
    assert len(named) == NAMED_FAILURES
    assert set(named) <= set(reference_ids)
    assert last == "and 2 more"


@ON_SQLITE
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://no-such-host.invalid"])
def test_where_esms_is_not_reached_every_look_up_fails_and_no_url_is_shown(
    esms: Sandbox, database: Database, reconcile: Command, url: str
) -> None:
    missing(esms, database, 2)

    result = reconcile(ESMS_API_URL=url.format(port=free_port()))

    assert result.exit_code == 1
    assert len(named_failures(result.stdout)["unreachable"]) == 2
    assert "check the network and ESMS_API_URL" in result.stdout
    assert "http://" not in result.output
    assert runs(database) == ["failures"]


@ON_SQLITE
def test_an_answer_that_repeats_our_request_is_stored_without_the_keys(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    def tell_back(served: Peer, line: socket.socket) -> None:
        while request := served.read(line):
            body = json.dumps({"CodeResponse": "100", "SendStatus": 5, "Asked": request, "Key": API_KEY})
            line.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    (reference_id,) = missing(esms, database, 1)
    with peer(tell_back) as served:
        assert reconcile(ESMS_API_URL=served.url).exit_code == 0

    (report,) = stored_reports(database, reference_id)
    assert f"ReferenceId={reference_id}" in report.payload
    assert shown_secrets(*served.requests) != []


@pytest.mark.parametrize(
    ("fault", "ago", "counted"),
    [
        (None, HOUR, "settled"),
        ("99", HOUR, "pending"),
        ("not-final", HOUR, "pending"),
        ("nothing-said", HOUR, "pending"),
        ("104", HOUR, "not_found"),
        ("105", HOUR, "not_found"),
        ("not-final", GIVE_UP + HOUR, "gave_up"),
        ("unknown-code", GIVE_UP + HOUR, "gave_up"),
    ],
)
@ON_SQLITE
def test_what_is_normal_ends_with_0(
    esms: Sandbox, database: Database, reconcile: Command, fault: str | None, ago: timedelta, counted: str
) -> None:
    missing(esms, database, 2, ago=ago)
    esms.answer_all_with(fault)

    result = reconcile("--json")

    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 2, counted: 2})
    how_far, share, *warning = result.stderr.splitlines()
    assert how_far.startswith("asking eSMS: 2 of 2 calls")
    assert share.startswith("settled by lookup in the last 24 hours: ")
    assert bool(warning) == ("100.0%" in share)
    assert runs(database) == ["done"]


def test_nothing_to_do_is_a_run_as_well(esms: Sandbox, database: Database, reconcile: Command) -> None:
    result = reconcile("--json")

    assert (result.exit_code, counts(result.stdout), asked(esms)) == (0, {}, [])
    assert runs(database) == ["done"]


@ON_SQLITE
def test_the_summary_has_the_columns_of_the_run_and_how_long_it_took(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 1)

    summary = json.loads(reconcile("--json").stdout)

    assert summary.keys() == {*reconcile_runs.columns.keys(), "seconds"}
    (run,) = rows(database, reconcile_runs)
    seconds = (run["finished_at"] - run["started_at"]).total_seconds()
    assert summary.pop("seconds") == pytest.approx(seconds, abs=0.001)
    for name in ("started_at", "finished_at", "seen_at", "answered_at"):
        assert datetime.fromisoformat(summary.pop(name)) == run.pop(name)
    assert summary == run | {"id": str(run["id"])}


# Which calls, and when


def test_a_dry_run_asks_and_writes_nothing(esms: Sandbox, database: Database, reconcile: Command) -> None:
    """It needs no keys, either."""
    reference_ids = missing(esms, database, 22)
    before = everything(database)

    shown = reconcile("--dry-run", ESMS_API_KEY=None, ESMS_SECRET_KEY=None)
    limited = reconcile("--dry-run", "--limit", "2")
    summary = reconcile("--dry-run", "--limit", "21", "--json")

    listed = [f"  {reference_id}" for reference_id in reference_ids]
    assert shown.stdout.splitlines() == ["due: 22; nothing was asked", *listed[:20], "  and 2 more"]
    assert limited.stdout.splitlines() == ["due: 2; nothing was asked", *listed[:2]]
    assert json.loads(summary.stdout).keys() == {*reconcile_runs.columns.keys(), "seconds", "due"}
    assert (json.loads(summary.stdout)["due"], counts(summary.stdout)) == (21, {})
    assert [shown.exit_code, limited.exit_code, summary.exit_code] == [0, 0, 0]
    assert (everything(database), asked(esms)) == (before, [])


@pytest.mark.parametrize("concurrency", ["1", "16"])
@pytest.mark.parametrize(("fault", "code"), [(None, 0), ("http-503", 1)])
@ON_SQLITE
def test_a_limit_is_how_many_calls_are_asked_about_be_it_in_vain(
    esms: Sandbox, database: Database, reconcile: Command, concurrency: str, fault: str | None, code: int
) -> None:
    reference_ids = missing(esms, database, 5)
    esms.answer_all_with(fault)

    result = reconcile("--limit", "3", RECONCILE_CONCURRENCY=concurrency)

    assert result.exit_code == code
    assert Counter(asked(esms)) == dict.fromkeys(reference_ids[:3], 1)
    assert (due(database), claimed(database)) == (reference_ids[3:], [])


@pytest.mark.parametrize(
    ("arguments", "environment", "who"),
    [
        ([], {}, ["hour", "conflict"]),
        (["--older-than", "30s"], {}, ["minute", "hour", "conflict"]),
        (["--older-than", "2h"], {}, ["conflict"]),
        ([], {"RECONCILE_GRACE": "0s"}, ["minute", "hour", "conflict"]),
        (["--older-than", "10m"], {"RECONCILE_GRACE": "0s"}, ["hour", "conflict"]),
    ],
)
def test_a_missing_call_is_asked_about_after_its_grace_and_no_call_before_its_time(
    esms: Sandbox,
    database: Database,
    reconcile: Command,
    arguments: list[str],
    environment: dict[str, str],
    who: list[str],
) -> None:
    names = {
        missing(esms, database, 1, ago=MINUTE)[0]: "minute",
        missing(esms, database, 1, ago=HOUR)[0]: "hour",
        in_conflict(esms, database, 1)[0]: "conflict",
        missing(esms, database, 1)[0]: "planned",
        in_conflict(esms, database, 1)[0]: "planned, in conflict",
    }
    for reference_id, name in names.items():
        if "planned" in name:
            change(database, reference_id, next_lookup_at=datetime.now(UTC) + MINUTE)

    assert reconcile(*arguments, **environment).exit_code == 0
    assert sorted(names[reference_id] for reference_id in asked(esms)) == sorted(who)


def test_calls_never_asked_about_come_first_and_then_the_longest_due(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    old, young = missing(esms, database, 2)
    one, two, three = missing(esms, database, 3, ago=DAY)
    (conflict,) = in_conflict(esms, database, 1)
    for hours, reference_id in enumerate([one, conflict, three, two], start=1):
        change(database, reference_id, lookup_count=1, next_lookup_at=datetime.now(UTC) - hours * HOUR)

    reconcile(RECONCILE_CONCURRENCY="1")

    assert asked(esms) == [old, young, two, three, conflict, one]


@pytest.mark.parametrize("concurrency", ["1", "16"])
def test_400_made_up_ids_do_not_starve_two_real_calls_and_get_one_look_up_in_ten(
    esms: Sandbox, database: Database, reconcile: Command, concurrency: str
) -> None:
    """Callbacks are unsigned: others who know the URL can make up calls, older than all real ones."""
    now = datetime.now(UTC)
    made_up = [callback(f"made-up-{number:03}", received_at=now - DAY, send_status=2) for number in range(400)]
    Writer(database).record(made_up, now)
    real = missing(esms, database, 2)

    reconcile("--limit", "10", RECONCILE_CONCURRENCY=concurrency)

    assert set(asked(esms)[:10]) > set(real)
    assert {stored_call(database, name).settled_by for name in real} == {"lookup"}

    # And while many real ones are due, those made up get one look-up in ten.
    more = missing(esms, database, 36)
    reconcile("--limit", "40", RECONCILE_CONCURRENCY=concurrency)
    first = asked(esms)[10:50]
    assert sorted(name for name in first if not name.startswith("made-up-")) == sorted(more)
    assert len(set(first)) == 40
    shown = reconcile.invoke("status", "--json").stdout
    assert {name: json.loads(shown)[name] for name in ("unregistered", "unregistered_last_day")} == {
        "unregistered": 400,
        "unregistered_last_day": 400,
    }


def test_a_call_that_fails_every_time_delays_no_other(esms: Sandbox, database: Database, reconcile: Command) -> None:
    broken, *others = missing(esms, database, 3)
    esms.faults = {broken: "reset"} | dict.fromkeys(others, "not-final")

    for _ in range(6):
        reconcile("--limit", "1")
        make_due(database, asked(esms)[-1])

    assert asked(esms) == [broken, *others, broken, *others]


def test_an_open_call_is_asked_about_again_after_5_minutes_doubling_up_to_6_hours_or_30_minutes_after_no_answer(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 5)
    esms.faults = dict(zip(reference_ids, ["not-final", "105", "redirect", "unknown-code", "http-500"], strict=True))

    for times, minutes in enumerate([5, 10, 20, 40, 80, 160, 320, 360, 360], start=1):
        began = datetime.now(UTC)
        reconcile(ESMS_TIMEOUT="20s")
        for reference_id in reference_ids:
            call = stored_call(database, reference_id)
            pause = min(minutes, 30) if call.last_lookup_code == "http-500" else minutes
            assert is_about(call.next_lookup_at, pause * MINUTE, began)
            assert call.lookup_count == times
            change(database, reference_id, next_lookup_at=began)
    assert len(esms.lookups) == times * len(reference_ids)


def test_what_is_not_due_yet_is_not_asked_about(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 1)
    esms.answer_all_with("not-final")

    results = [reconcile("--older-than", "0s", "--json") for _ in range(2)]

    assert [counts(result.stdout) for result in results] == [{"checked": 1, "pending": 1}, {}]
    assert len(esms.lookups) == 1


@ON_SQLITE
def test_a_call_is_given_up_once_esms_answers_after_all_that_time_and_does_not_decide(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """Where no answer came, or an HTTP error, it is asked about again. A call in conflict stays flagged."""
    lost = missing(esms, database, len(FAULTS), ago=GIVE_UP + MINUTE)
    torn = in_conflict(esms, database, len(FAULTS), ago=GIVE_UP + MINUTE)
    esms.faults = dict(zip([*lost, *torn], [*FAULTS, *FAULTS], strict=True))
    began = datetime.now(UTC)

    summary = counts(reconcile("--json").stdout)

    final = [fault for fault in FAULTS if ANSWERS[fault][2] == "final"]
    later = [fault for fault in FAULTS if ANSWERS[fault][0].startswith("http-") or not ANSWERS[fault][1]]
    undecided = [fault for fault in FAULTS if fault not in {*final, *later}]
    assert {"unknown-code", "garbage", "huge", "wrong-reference", "104", "not-final"} <= set(undecided)
    assert summary["gave_up"] == len(undecided)
    for reference_id, fault in esms.faults.items():
        call = stored_call(database, reference_id)
        assert (call.gave_up_at is not None) == (reference_id in lost and fault in undecided)
        assert call.conflict == (reference_id in torn and ANSWERS[fault][2] != "final")
        if fault in later:
            assert is_about(call.next_lookup_at, 5 * MINUTE, began)
        else:
            assert call.next_lookup_at is None
    assert due(database) == []


@ON_SQLITE
@pytest.mark.parametrize(("give_up", "given_up"), [("2h", False), ("30m", True)])
def test_when_a_call_is_given_up_is_a_setting(
    esms: Sandbox, database: Database, reconcile: Command, give_up: str, *, given_up: bool
) -> None:
    (reference_id,) = missing(esms, database, 1)
    esms.answer_all_with("105")

    reconcile(RECONCILE_GIVE_UP=give_up)

    assert (stored_call(database, reference_id).gave_up_at is not None) == given_up


def test_esms_decides_a_conflict(esms: Sandbox, database: Database, reconcile: Command) -> None:
    (reference_id,) = in_conflict(esms, database, 1)

    result = reconcile("--json")

    call, truth = stored_call(database, reference_id), esms.calls[reference_id]
    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 1, "settled": 1})
    assert (call.call_status, call.call_duration) == (truth.lookup_status, truth.call_duration)
    assert (call.conflict, call.next_lookup_at, call.settled_by) == (False, None, "callback")


def test_a_conflict_that_esms_leaves_open_is_asked_about_again(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = in_conflict(esms, database, 3)
    esms.faults = dict(zip(reference_ids, ["not-final", "104", "garbage"], strict=True))
    began = datetime.now(UTC)

    assert reconcile().exit_code == 1

    for reference_id in reference_ids:
        call = stored_call(database, reference_id)
        assert call.conflict
        assert is_about(call.next_lookup_at, 5 * MINUTE, began)


# The rate


@ON_SQLITE
def test_look_ups_keep_to_the_rate(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 20)

    reconcile(RECONCILE_RATE="30")

    assert esms.lookups[-1].at - esms.lookups[0].at >= 19 / 30 - 0.1


@ON_SQLITE
def test_as_many_look_ups_are_in_flight_as_the_setting_says(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 6)
    esms.options = replace(esms.options, latency=0.15)

    reconcile(RECONCILE_CONCURRENCY="2")

    times = [lookup.at for lookup in esms.lookups]
    assert all(later - earlier >= 0.14 for earlier, later in zip(times, times[2:], strict=False))
    assert times[-1] - times[0] < 5 * 0.15


@ON_SQLITE
def test_code_160_slows_the_run_down_and_charges_nothing(esms: Sandbox, database: Database, reconcile: Command) -> None:
    reference_ids = missing(esms, database, 7)
    esms.options = replace(esms.options, rate_limit=5)

    result = reconcile("--json", "--limit", "7", RECONCILE_RATE="8", RECONCILE_CONCURRENCY="2")

    assert (result.exit_code, counts(result.stdout)) == (0, {"checked": 7, "settled": 7})
    codes = [lookup.code for lookup in esms.lookups]
    assert f"look-ups rate-limited by eSMS (code 160, HTTP 429 or 503): {codes.count('160')}." in result.stderr
    (rate,) = rows(database, lookup_rate)
    assert rate["share"] < 1
    assert {stored_call(database, reference_id).lookup_count for reference_id in reference_ids} == {1}


@pytest.mark.parametrize("fault", ["160", "http-429", "http-503"])
@ON_SQLITE
def test_a_rate_limited_call_is_asked_about_three_times_more_in_the_run_and_then_charged_once(
    esms: Sandbox, database: Database, reconcile: Command, fault: str
) -> None:
    answered, limited, *others = missing(esms, database, 4)
    esms.faults = {limited: fault}
    began = datetime.now(UTC)

    result = reconcile(RECONCILE_CONCURRENCY="1")

    assert result.exit_code == 1
    assert Counter(asked(esms)) == {answered: 1, limited: 4, **dict.fromkeys(others, 1)}
    assert set(others) <= set(asked(esms)[:5])
    call = stored_call(database, limited)
    assert (call.lookup_count, call.last_lookup_code) == (1, fault)
    assert is_about(call.next_lookup_at, 5 * MINUTE, began)


@ON_SQLITE
def test_where_every_look_up_is_rate_limited_each_call_is_charged_and_the_run_goes_on(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_ids = missing(esms, database, 3)
    esms.answer_all_with("160")

    result = reconcile("--json")

    assert (result.exit_code, counts(result.stdout)) == (1, {"checked": 3, "failed": 3})
    assert Counter(asked(esms)) == dict.fromkeys(reference_ids, 4)
    assert "failed with 160: 3; " in result.stderr
    assert (due(database), claimed(database), runs(database)) == ([], [], ["failures"])


# How a run may end


@ON_SQLITE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_finishes_what_is_in_flight_and_leaves_the_rest_due(
    esms: Sandbox, database: Database, reconcile: Command, number: signal.Signals
) -> None:
    reference_ids = missing(esms, database, 12)
    esms.options = replace(esms.options, latency=0.3)

    with reconcile.beside("--json", RECONCILE_CONCURRENCY="3") as process:
        until(lambda: len(esms.lookups) >= 6)
        process.send_signal(number)
        code, summary, explanation = reconcile.end(process)

    done = len(esms.lookups)
    assert done < 12
    assert (code, json.loads(summary)["outcome"], runs(database)) == (1, "interrupted", ["interrupted"])
    assert counts(summary) == {"checked": done, "settled": done}
    assert sorted(asked(esms)) == sorted(reference_ids[:done])
    assert (due(database), claimed(database)) == (reference_ids[done:], [])
    assert f"not asked about: {12 - done}, because the run was interrupted; they stay due" in explanation


@ON_SQLITE
def test_a_run_can_be_interrupted_while_it_pauses(
    esms: Sandbox,
    database: Database,
    reconcile: Command,  # noqa: ARG001 - it searches for secrets
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "1")
    first, *reference_ids = missing(esms, database, 5)
    in_a_minute = {"Retry-After": "60"}
    monkeypatch.setitem(faults.FAULTS, "later", lambda handler, _: handler.send(b"", status=503, **in_a_minute))
    esms.faults = dict.fromkeys(reference_ids, "later")
    stop, began = Event(), time.monotonic()

    def watch(progress: Progress) -> None:
        if progress.slowed_down:
            stop.set()

    progress = reconciler(database).run(due_now(), limit=None, stop=stop, watch=watch)

    assert time.monotonic() - began < 30
    assert (progress.run.outcome, progress.unasked, runs(database)) == ("interrupted", 4, ["interrupted"])
    assert (due(database), claimed(database)) == (reference_ids, [])
    assert stored_call(database, first).settled


@ON_SQLITE
@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--limit", "0"], {}, "--limit"),
        (["--older-than", "soon"], {}, "--older-than"),
        (["--no-such-option"], {}, "--no-such-option"),
        (["now"], {}, "now"),
        ([], {"ESMS_TIMEOUT": "0s"}, "ESMS_TIMEOUT"),
        ([], {"RECONCILE_RATE": "fast"}, "RECONCILE_RATE"),
        ([], {"RECONCILE_GIVE_UP": "3 days"}, "RECONCILE_GIVE_UP"),
        ([], {"ESMS_API_URL": f"https://me:{API_KEY}@voiceapi.esms.vn"}, "ESMS_API_URL"),
        ([], {"DATABASE_URL": f"mysql://me:{PASSWORD}@127.0.0.1/calls"}, "DATABASE_URL"),
        ([], {"ESMS_API_KEY": None}, "ESMS_API_KEY"),
        ([], {"ESMS_API_KEY": " ", "ESMS_SECRET_KEY": ""}, "ESMS_API_KEY, ESMS_SECRET_KEY"),
    ],
)
def test_a_wrong_option_or_setting_ends_it_at_once_with_2(
    esms: Sandbox,
    database: Database,
    reconcile: Command,
    arguments: list[str],
    environment: dict[str, str | None],
    named: str,
) -> None:
    missing(esms, database, 1)
    before = everything(database)

    result = reconcile(*arguments, **environment)

    assert result.exit_code == 2
    assert named in result.stderr
    assert (everything(database), asked(esms)) == (before, [])


@pytest.mark.parametrize("code", REFUSING)
@ON_SQLITE
def test_a_refused_account_stops_the_run_at_once_with_3_and_charges_no_call(
    esms: Sandbox, database: Database, reconcile: Command, code: str
) -> None:
    reference_ids = missing(esms, database, 10)
    esms.answer_all_with(code)
    before = rows(database, calls)

    result = reconcile("--json", RECONCILE_CONCURRENCY="2")

    assert (result.exit_code, counts(result.stdout)) == (3, {})
    assert f"code {code}" in result.stderr
    assert "not asked about: 10, because eSMS refuses the account; they stay due" in result.stderr
    assert len(esms.lookups) <= 4
    assert (rows(database, calls), due(database), runs(database)) == (before, reference_ids, ["refused"])


@ON_SQLITE
def test_wrong_keys_are_refused(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 1)

    result = reconcile(ESMS_SECRET_KEY=f"{SECRET_KEY}!")

    assert result.exit_code == 3
    assert "check ESMS_API_KEY and ESMS_SECRET_KEY" in result.stderr


def test_what_else_was_in_flight_when_the_account_was_refused_counts(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    refused, *others = missing(esms, database, 30)
    esms.faults = {refused: "140"}
    esms.options = replace(esms.options, latency=0.1)

    result = reconcile("--json", RECONCILE_CONCURRENCY="3")

    done = len(esms.lookups) - 1
    assert 1 <= done < len(others)
    assert (result.exit_code, counts(result.stdout)) == (3, {"checked": done, "settled": done})
    assert due(database) == [refused, *others[done:]]
    assert claimed(database) == []


@ON_SQLITE
@pytest.mark.parametrize(
    "url", ["postgresql://me:{password}@127.0.0.1:{port}/calls", "sqlite:///{folder}/text"], ids=["refused", "text"]
)
def test_a_database_that_cannot_be_reached_ends_it_with_4_and_shows_no_password(
    tmp_path: Path, esms: Sandbox, reconcile: Command, url: str
) -> None:
    where = url.format(password=quote(PASSWORD, safe=""), port=free_port(), folder=tmp_path)
    (tmp_path / "text").write_text("no database" * 1000)

    for arguments in ([], ["--dry-run"]):
        result = reconcile(*arguments, DATABASE_URL=where)
        assert (result.exit_code, result.stdout) == (4, "")
        assert "DATABASE_URL" in result.stderr
    assert asked(esms) == []


def test_a_database_that_goes_away_in_mid_run_ends_it_and_nothing_is_lost(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """The calls are free again when their lease is over."""
    reference_ids = missing(esms, database, 2)
    esms.options = replace(esms.options, latency=0.5)
    impatient = Database(database.url.render_as_string(hide_password=False), patience=timedelta(seconds=0.1))

    with ThreadPoolExecutor(1) as threads:
        work = reconciler(impatient).run
        run = threads.submit(work, due_now(), limit=None, stop=Event(), watch=lambda _: None)
        until(lambda: len(esms.lookups) == 2)
        with pytest.raises(Unavailable):
            with_calls_locked(database, run.result)
    impatient.close()

    assert (due(database), sorted(claimed(database))) == (reference_ids, sorted(reference_ids))
    assert {stored_call(database, reference_id).lookup_count for reference_id in reference_ids} == {0}
    assert runs(database) in (["died"], [None])
    for reference_id in reference_ids:
        change(database, reference_id, claimed_until=datetime.now(UTC))
    assert counts(reconcile("--json").stdout) == {"checked": 2, "settled": 2}


def with_calls_locked(database: Database, until: Callable[[], object]) -> None:
    """Keep the calls locked while ``until`` runs."""

    def work(connection: Any) -> None:
        if not database.is_sqlite:
            connection.execute(text("LOCK TABLE calls"))
        until()

    with database.transaction() as connection:
        work(connection)


def test_a_run_that_meets_an_unexpected_error_is_recorded_as_died(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(esms, database, 1)

    def look_up(*_: object, **__: object) -> NoReturn:
        raise KeyError(f"ApiKey={API_KEY}")

    monkeypatch.setattr(Client, "look_up", look_up)

    result = reconcile()

    assert (result.exit_code, runs(database)) == (1, ["died"])
    assert "Unexpected KeyError" in result.stderr


# Beside others


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_run_whose_calls_are_all_claimed_by_another_records_nothing_and_ends_with_0(
    esms: Sandbox, database: Database, reconcile: Command, arguments: list[str]
) -> None:
    missing(esms, database, 3)
    now = datetime.now(UTC)
    claims.claim(database, due_now(), 3, now=now, until=now + MINUTE)
    before = everything(database)

    result = reconcile(*arguments)

    assert result.exit_code == 0
    if arguments:
        assert counts(result.stdout) == {}
    shown = result.stderr if arguments else result.stdout
    assert "another run has claimed all of the 3 calls that are due" in shown
    assert (everything(database), asked(esms)) == (before, [])


def test_what_a_run_that_was_killed_had_claimed_is_asked_about_when_its_lease_is_over(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    (reference_id,) = missing(esms, database, 1)
    esms.faults = {reference_id: "hang"}
    with reconcile.beside() as process:
        until(lambda: esms.lookups)
        process.kill()
    esms.faults = {}
    assert "another run has claimed all of the 1 calls" in reconcile().stdout
    (lease,) = [call["claimed_until"] for call in rows(database, calls)]
    assert timedelta(0) < lease - datetime.now(UTC) < MINUTE

    change(database, reference_id, claimed_until=datetime.now(UTC))

    assert counts(reconcile("--json").stdout) == {"checked": 1, "settled": 1}


@ON_SQLITE
def test_a_call_that_another_run_claimed_since_is_left_to_it(
    esms: Sandbox,
    database: Database,
    reconcile: Command,  # noqa: ARG001 - it searches for secrets
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that is to be asked about again after a pause waits for it, which may be longer than its lease."""
    monkeypatch.setenv("ESMS_TIMEOUT", "1s")
    monkeypatch.setattr(claims, "_LEASE_TIMEOUTS", 2.3)
    (reference_id,) = missing(esms, database, 1)
    esms.faults = {reference_id: "later-date"}
    taken: list[Claimed] = []

    def watch(progress: Progress) -> None:
        until = time.monotonic() + 30
        while progress.slowed_down and not taken:
            assert time.monotonic() < until, "the call is not due any more"
            now = datetime.now(UTC)
            taken.extend(claims.claim(database, due_now(), 1, now=now, until=now + MINUTE))
            time.sleep(0.1)

    reconciler(database).run(due_now(), limit=None, stop=Event(), watch=watch)

    assert [call.reference_id for call in taken] == [reference_id]
    assert (asked(esms), claimed(database)) == ([reference_id], [reference_id])


def test_no_transaction_is_open_while_esms_is_asked(esms: Sandbox, database: Database, reconcile: Command) -> None:
    """So a callback can be stored meanwhile, even one about the call that is asked about."""
    reference_ids = missing(esms, database, 2)
    esms.options = replace(esms.options, latency=1.5)
    impatient = Database(database.url.render_as_string(hide_password=False), patience=timedelta(seconds=0.1))

    with reconcile.beside(ESMS_TIMEOUT="20s") as process:
        until(lambda: len(esms.lookups) == 2)
        now = datetime.now(UTC)
        reports = [callback(reference_id, received_at=now, call_status="BUSY") for reference_id in reference_ids]
        effects = Writer(impatient).record(reports, now)
        until(lambda: not is_a_transaction_open(database))  # A lease may be renewed just now.
        still_asking = time.monotonic() < esms.lookups[0].at + 1.4
        code, _, _ = reconcile.end(process)
    impatient.close()

    assert still_asking
    assert (effects, code) == (["settled", "settled"], 0)
    for reference_id in reference_ids:
        call = stored_call(database, reference_id)
        assert (call.call_status, call.settled_by) == (esms.calls[reference_id].lookup_status, "callback")


def is_a_transaction_open(database: Database) -> bool:
    """Whether any process holds one open, be it only for reading."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.url.database))) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return bool(busy)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    with database.snapshot(limited=False) as connection:
        return bool(connection.execute(text(f"SELECT count(*) {others}")).scalar_one())
