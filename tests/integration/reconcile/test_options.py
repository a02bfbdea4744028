"""What reconcile can be asked for: some calls, given-up ones, settled ones to be confirmed; and what it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from makers import callback, stored_call
from reconciling import (
    DAY,
    GIVE_UP,
    HOUR,
    MINUTE,
    ON_SQLITE,
    asked,
    change,
    counts,
    due_now,
    everything,
    in_conflict,
    is_about,
    make_due,
    missing,
    reconciler,
    rows,
    runs,
)

from webapp.cli import reconcile
from webapp.esms.sandbox.calls import normalised
from webapp.reconcile.run import Progress
from webapp.storage.models import calls
from webapp.storage.runs import Run
from webapp.storage.writer import Writer
from webapp.support import progress as terminal

if TYPE_CHECKING:
    from reconciling import Command

    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database


def settled(esms: Sandbox, database: Database, count: int, *, registered: bool, ago: timedelta = HOUR) -> list[str]:
    """Calls with a final callback that no look-up confirmed."""
    now = datetime.now(UTC)
    if registered:
        reference_ids = missing(esms, database, count, ago=ago)
    else:
        reference_ids = [call.reference_id.lower() for call in esms.place(count)]
    for reference_id in reference_ids:
        final = callback(
            reference_id, received_at=now - ago + MINUTE, call_status=esms.calls[reference_id].lookup_status
        )
        Writer(database).record([final], now)
    return reference_ids


# Some calls only


@ON_SQLITE
def test_a_run_is_narrowed_by_campaign_time_and_identity_also_when_it_only_counts(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    one, two, three = (missing(esms, database, 1, ago=hours * HOUR)[0] for hours in (1, 2, 3))
    change(database, two, campaign="june")
    between = (datetime.now(UTC) - 1.5 * HOUR).isoformat()
    narrowings: dict[tuple[str, ...], list[str]] = {
        ("--campaign", "june"): [two],
        ("--since", between): [one],
        ("--until", between): [two, three],
        ("--until", between, "--campaign", "june"): [two],
        ("--reference-id", one.upper(), "--reference-id", f" {three.title()} "): [one, three],
        ("--reference-id", "unknown"): [],
    }
    for arguments, expected in narrowings.items():
        assert json.loads(reconcile("--dry-run", "--json", *arguments).stdout)["due"] == len(expected)
        before = len(esms.lookups)
        esms.answer_all_with("not-final")
        assert counts(reconcile("--json", *arguments).stdout).get("checked", 0) == len(expected)
        assert sorted(asked(esms)[before:]) == sorted(expected)
        for reference_id in expected:
            change(database, reference_id, next_lookup_at=None)


@ON_SQLITE
@pytest.mark.parametrize("arguments", [("--reference-id", "with a blank"), ("--reference-id", ""), ("--since", "soon")])
def test_what_cannot_be_narrowed_by_is_a_usage_error(
    esms: Sandbox, database: Database, reconcile: Command, arguments: tuple[str, ...]
) -> None:
    missing(esms, database, 1)

    result = reconcile(*arguments)

    assert (result.exit_code, asked(esms)) == (2, [])
    assert arguments[0] in result.stderr


# Calls that were given up


def given_up(esms: Sandbox, database: Database, reconcile: Command, count: int) -> list[str]:
    reference_ids = missing(esms, database, count, ago=GIVE_UP + HOUR)
    esms.answer_all_with("105")
    assert counts(reconcile("--json").stdout) == {"checked": count, "gave_up": count}
    return reference_ids


@pytest.mark.parametrize("fault", [None, "105"])
def test_calls_that_were_given_up_are_asked_about_again_where_that_is_wanted(
    esms: Sandbox, database: Database, reconcile: Command, fault: str | None
) -> None:
    given_up(esms, database, reconcile, 3)
    esms.answer_all_with(fault)
    before = len(esms.lookups)
    assert counts(reconcile("--json").stdout) == {}

    result = reconcile("--json", "--retry-given-up")

    assert len(esms.lookups) == before + 3
    assert "due again: 3 calls that were given up" in result.stderr
    assert result.exit_code == 0
    assert counts(result.stdout) == {"checked": 3, "gave_up" if fault else "settled": 3}
    for call in rows(database, calls):
        assert (call["gave_up_at"] is None, call["next_lookup_at"], call["lookup_count"]) == (not fault, None, 2)


@ON_SQLITE
def test_only_some_of_those_given_up_may_be_wanted_and_a_dry_run_counts_them_and_changes_none(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    one, *others = given_up(esms, database, reconcile, 3)
    esms.answer_all_with(None)
    change(database, one, campaign="june")
    due = missing(esms, database, 2)
    before = everything(database)

    shown = reconcile("--dry-run", "--retry-given-up").stdout.splitlines()
    narrowed = reconcile("--dry-run", "--retry-given-up", "--campaign", "june", "--json").stdout

    assert shown[:2] == ["due: 5; nothing was asked", "  of these given up, and due again: 3"]
    assert (json.loads(narrowed)["due"], everything(database)) == (1, before)
    assert counts(reconcile("--retry-given-up", "--campaign", "june", "--json").stdout) == {"checked": 1, "settled": 1}
    assert stored_call(database, one).settled
    assert not any(stored_call(database, name).settled for name in (*others, *due))


# Settled calls, to be confirmed


@pytest.mark.parametrize(
    ("verify", "wanted"),
    [
        (None, ["missing", "conflict"]),
        ("off", ["missing"]),
        ("conflicts", ["missing", "conflict"]),
        ("unregistered", ["missing", "conflict", "unregistered"]),
        ("all", ["missing", "conflict", "unregistered", "registered"]),
    ],
)
@ON_SQLITE
def test_which_settled_calls_are_asked_about_is_a_setting(
    esms: Sandbox, database: Database, reconcile: Command, verify: str | None, wanted: list[str]
) -> None:
    who = {
        "registered": settled(esms, database, 2, registered=True, ago=2 * DAY),
        "unregistered": settled(esms, database, 2, registered=False, ago=DAY),
        "too old": settled(esms, database, 2, registered=False, ago=GIVE_UP + HOUR),
        "missing": missing(esms, database, 2),
        "conflict": in_conflict(esms, database, 2),
    }
    expected = [name for kind in wanted for name in who[kind]]

    results = [reconcile("--json", RECONCILE_CONCURRENCY="1", VERIFY=verify) for _ in range(2)]

    assert [result.exit_code for result in results] == [0, 0]
    assert [counts(result.stdout) for result in results] == [{"checked": len(expected), "settled": len(expected)}, {}]
    assert sorted(asked(esms)) == sorted(expected)
    first = {name for kind in ("missing", "conflict") for name in who[kind] if name in expected}
    assert set(asked(esms)[: len(first)]) == first
    for kind, reference_ids in who.items():
        for call in (stored_call(database, name) for name in reference_ids):
            assert (call.confirmed_at is not None) == (kind in wanted)
            assert call.conflict == (kind == "conflict" and kind not in wanted)
            assert (call.next_lookup_at is None) == (not call.conflict)


@ON_SQLITE
def test_registered_calls_come_first_and_the_others_get_one_look_up_in_ten(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """So forged callbacks, however many, delay no registered call; and the registered ones delay no other for ever."""
    registered = missing(esms, database, 90)
    others = [normalised(call.reference_id) for call in esms.place(60)]
    now = datetime.now(UTC)
    Writer(database).record([callback(name, received_at=now - HOUR, send_status=2) for name in others], now)

    reconcile(RECONCILE_CONCURRENCY="4")

    in_order = [name in registered for name in asked(esms)]
    assert len(in_order) == 150
    assert 8 <= in_order[:100].count(False) <= 12
    assert in_order[:50].count(False) >= 3
    assert not any(in_order[110:])


@ON_SQLITE
def test_calls_known_from_callbacks_alone_get_no_more_than_one_in_ten_for_a_time_when_none_was_due(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "1")
    registered = set(missing(esms, database, 70))
    others = [normalised(call.reference_id) for call in esms.place(10)]

    def receive_others(progress: Progress) -> None:
        if progress.run.checked >= 20 and others:
            now = datetime.now(UTC)
            Writer(database).record([callback(name, received_at=now - HOUR, send_status=2) for name in others], now)
            others.clear()

    reconciler(database).run(due_now(), limit=None, stop=Event(), watch=receive_others)

    in_order = [name in registered for name in asked(esms)]
    assert (len(in_order), in_order[:20].count(False)) == (80, 0)
    assert 3 <= in_order[20:70].count(False) <= 6


@ON_SQLITE
def test_of_runs_of_a_few_calls_some_ask_about_calls_known_from_callbacks_alone(
    esms: Sandbox, database: Database, reconcile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = iter(range(10))
    monkeypatch.setattr("webapp.reconcile.run.secrets.randbelow", lambda _: next(chance))
    registered = missing(esms, database, 70)
    others = [normalised(call.reference_id) for call in esms.place(20)]
    now = datetime.now(UTC)
    Writer(database).record([callback(name, received_at=now - HOUR, send_status=2) for name in others], now)

    for _ in range(10):
        reconcile("--limit", "5")

    in_order = [name in registered for name in asked(esms)]
    assert (len(in_order), in_order.count(False)) == (50, 5)


@pytest.mark.parametrize("fault", ["garbage", "105", "not-final", "reset"])
@ON_SQLITE
def test_a_call_that_could_not_be_confirmed_is_asked_about_later_and_not_again_in_the_same_run(
    esms: Sandbox, database: Database, reconcile: Command, fault: str
) -> None:
    reference_ids = settled(esms, database, 30, registered=False)
    broken = reference_ids[::3]
    esms.faults = dict.fromkeys(broken, fault)
    begun = datetime.now(UTC)

    reconcile(VERIFY="all", RECONCILE_CONCURRENCY="2")

    # A kept connection that is reset is tried once more, on a new one.
    again = Counter(asked(esms)) - Counter(reference_ids)
    assert set(asked(esms)) == set(reference_ids)
    assert again <= Counter(broken if fault == "reset" else ())
    for reference_id in reference_ids:
        call = stored_call(database, reference_id)
        assert call.settled
        assert call.settled_by == "callback"
        if reference_id in broken:
            assert is_about(call.next_lookup_at, 5 * MINUTE, begun)
        else:
            assert call.next_lookup_at is None

    esms.faults = {}
    for reference_id in broken:
        make_due(database, reference_id)
    assert counts(reconcile("--json", VERIFY="all").stdout) == {"checked": 10, "settled": 10}
    assert [call["next_lookup_at"] for call in rows(database, calls)] == [None] * 30


@ON_SQLITE
def test_calls_placed_at_the_same_moment_are_all_confirmed(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """A run narrows its claims by placed_at, which is the same for all of them here."""
    reference_ids = settled(esms, database, 30, registered=False)
    moment = datetime.now(UTC) - HOUR
    for reference_id in reference_ids:
        change(database, reference_id, placed_at=moment)

    assert counts(reconcile("--json", VERIFY="all", RECONCILE_CONCURRENCY="2").stdout)["settled"] == 30
    assert Counter(asked(esms)) == Counter(reference_ids)


# What it says


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_without_a_terminal_a_line_every_ten_seconds_shows_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeTime()
    monkeypatch.setattr(terminal, "time", clock)
    with terminal.progress("asking eSMS", None) as show:
        watch = reconcile._shows_progress(show)  # noqa: SLF001 - what a run calls
        for second in range(1, 26):
            clock.now = float(second)
            run = Run(
                id=UUID(int=1),
                started_at=datetime.now(UTC),
                host="a",
                checked=4 * second,
                settled=2 * second,
                pending=second,
                not_found=1,
                failed=second - 1,
            )
            watch(Progress(run=run, due=400, lookups_per_second=4.0))

    assert capsys.readouterr().err.splitlines() == [
        "asking eSMS: 40 of 400 calls, settled 20, pending 11, failed 9, 4.0 a second, 0:01:30 left",
        "asking eSMS: 80 of 400 calls, settled 40, pending 21, failed 19, 4.0 a second, 0:01:20 left",
        "asking eSMS: 100 of 400 calls, settled 50, pending 26, failed 24, 4.0 a second, 0:01:15 left",
    ]


@ON_SQLITE
def test_the_summary_says_what_slowed_it_down_what_was_not_asked_about_and_why(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    """In JSON on standard error, so that standard output is one object."""
    limited, *others = missing(esms, database, 80)
    esms.faults = dict.fromkeys(others, "reset") | {limited: "160"}
    as_json, plain = (reconcile(*options, RECONCILE_CONCURRENCY="1") for options in (["--json"], []))

    shown = as_json.stderr.splitlines()
    assert (
        "look-ups rate-limited by eSMS (code 160, HTTP 429 or 503): 4. The rate was halved, and recovers within "
        "minutes. If this happens often, lower RECONCILE_RATE."
    ) in shown
    assert "because eSMS does not answer; they stay due" in plain.stdout
    unasked = re.compile("not asked about: [0-9]+, because eSMS does not answer; they stay due")
    assert any(map(unasked.fullmatch, shown))
    assert "not asked about" not in as_json.stdout
    assert json.loads(as_json.stdout)["outcome"] == "failures"
    assert runs(database) == ["failures", "failures"]
