"""The command status: its counts, what needs a person, and the spool."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, at, callback, change_by_hand, lookup

from webapp.calls.rule import Registration
from webapp.cli.status_needs import DISK_FULL, NOT_SPOOLED, SAFE, SPOOL_FILLING
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.storage.rejected import LIMIT_BYTES
from webapp.storage.runs import Run, start_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

from commands import ON_SQLITE, SET, database_away, done, rejected, run, spooled
from outages import small_disk

AWAY = "the database cannot be used: start PostgreSQL, or correct host and port in DATABASE_URL."


def finished_run(database: Database, outcome: Any, ago: timedelta = timedelta(hours=1)) -> object:
    started_at = datetime.now(UTC) - ago
    run = Run(id=parameters.new_id(), started_at=started_at, host="here", outcome=outcome)
    start_run(database, replace(run, finished_at=started_at if outcome else None), lease=timedelta(minutes=1))
    return started_at


def placed(writer: Writer, ago: timedelta) -> object:
    now = datetime.now(UTC)
    return writer.register([Registration(reference_id="a", placed_at=now - ago)], now)


def give_up(writer: Writer) -> None:
    placed(writer, timedelta(days=4))
    writer.conclude([LookupAnswer("a", "104")], datetime.now(UTC), give_up=timedelta(hours=72))


def almost_full(writer: Writer, database: Database) -> None:
    one = rejected(b"x=1")
    writer.reject(one)
    size = LIMIT_BYTES // 2 + 2**20
    change_by_hand(database, "UPDATE rejected_callbacks SET size = :size, replayed_at = last_at", size=size)


@pytest.mark.parametrize(
    ("happen", "words"),
    [
        (lambda writer, _: writer.reject(rejected(b"x=1")), ["could not be read: 1", "esms-calls replay --rejected"]),
        (almost_full, ["holds 129 of 256 MiB", "replay them, or copy and delete them"]),
        (
            lambda writer, _: give_up(writer),
            ["calls given up: 1", "Ask eSMS's support", "--retry-given-up", "dismiss --given-up"],
        ),
        (lambda _, database: finished_run(database, "refused"), ["refused the account", "run `esms-calls reconcile`"]),
        (
            lambda writer, _: placed(writer, timedelta(minutes=11)),
            ["calls overdue: 1", "Have a timer run `esms-calls reconcile`"],
        ),
        (
            lambda writer, database: (
                placed(writer, timedelta(minutes=11)),
                finished_run(database, "done", timedelta(minutes=31)),
            ),
            ["calls overdue: 1", "Have a timer run `esms-calls reconcile`"],
        ),
    ],
    ids=["rejected", "rejected bytes", "given up", "refused", "never ran", "ran long ago"],
)
@SET
def test_status_says_what_needs_a_person_and_what_to_do_with_exit_code_1(
    writer: Writer,
    database: Database,
    happen: Callable[[Writer, Database], object],
    words: list[str],
) -> None:
    happen(writer, database)

    shown, as_json = run("status"), run("status", "--json")

    assert (shown.exit_code, as_json.exit_code) == (1, 1)
    (need,) = json.loads(as_json.stdout)["needs"]
    assert all(word in need for word in words)
    assert [line for line in shown.stdout.splitlines() if line.startswith("!")] == [f"! {need}"]


@pytest.mark.parametrize(
    "happen",
    [
        lambda *_: None,
        lambda writer, _: placed(writer, timedelta(minutes=9)),
        lambda writer, database: (
            placed(writer, timedelta(minutes=11)),
            finished_run(database, "done", timedelta(minutes=29)),
        ),
        lambda writer, database: (
            placed(writer, timedelta(minutes=11)),
            finished_run(database, "interrupted", timedelta(minutes=1)),
        ),
        lambda _, database: (finished_run(database, "refused", timedelta(hours=2)), finished_run(database, "done")),
        lambda _, database: finished_run(database, "failures"),
        lambda _, database: finished_run(database, "died"),
        lambda writer, _: writer.record(
            [callback("a", second, call_status=status) for second, status in enumerate(["BUSY", "ANSWERED"])],
            datetime.now(UTC),
        ),
    ],
    ids=["nothing", "in grace", "ran today", "interrupted", "well again", "failures", "died", "conflict"],
)
@SET
@ON_SQLITE
def test_status_is_done_when_nothing_needs_a_person(
    writer: Writer, database: Database, happen: Callable[[Writer, Database], object]
) -> None:
    happen(writer, database)

    assert json.loads(done("status", "--json"))["needs"] == []
    assert "!" not in done("status")


@SET
def test_status_goes_by_the_grace_that_is_set(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(writer, timedelta(minutes=11))
    monkeypatch.setenv("RECONCILE_GRACE", "1h")

    assert json.loads(done("status", "--json"))["overdue"] == 0


@SET
def test_status_shows_the_same_counts_to_people_and_programs(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="missing", placed_at=at(0))], NOW)
    writer.record([callback("a", 1, call_status="BUSY"), callback("c", 2, call_status="BUSY")], NOW)
    writer.record([lookup("b", 3, call_status="BUSY"), callback("c", 4, call_status="ANSWERED")], NOW)
    finished_run(database, "interrupted")

    shown, as_json = run("status"), json.loads(run("status", "--json").stdout)

    expected = {"calls": 4, "settled": 3, "by_callback": 2, "by_lookup": 1, "missing": 1, "overdue": 2}
    assert {name: as_json[name] for name in expected} == expected
    assert (as_json["given_up"], as_json["conflicts"], as_json["rejected"]) == (0, 1, 0)
    assert as_json["oldest_missing"] == "2026-11-23T10:00:00.000000Z"
    assert as_json["last_run"]["outcome"] == "interrupted"
    for name, value in expected.items():
        assert re.search(rf"^ +{name.replace('_', ' ')} +{value} *$", shown.stdout, re.MULTILINE)
    assert "2026-11-23 17:00:00 (" in shown.stdout, "times are local"
    assert re.search(r"last run +[-\d]+ [:\d]+ \(60 min ago\), interrupted", shown.stdout)


@ON_SQLITE
def test_status_does_not_say_that_callbacks_are_safe_where_they_are_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled(settings, f"ReferenceId=a&Note={'x' * 40_000}")
    with database_away(settings, monkeypatch):
        monkeypatch.setenv("SPOOL_LIMIT", "64KiB")
        filling = json.loads(run("status", "--json").stdout)["needs"]
        monkeypatch.setenv("SPOOL", "off")
        off = json.loads(run("status", "--json").stdout)["needs"]

    assert (filling[0], off) == (f"{AWAY} {SPOOL_FILLING}", [f"{AWAY} {NOT_SPOOLED}"])
    assert "of 64 KiB (SPOOL_LIMIT)" in filling[1]
    assert "safe" not in " ".join(filling + off)


@ON_SQLITE
def test_status_names_a_disk_that_is_too_full_for_the_spool(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(1) as disk, database_away(settings, monkeypatch):
        monkeypatch.setenv("INSTANCE_DIR", str(disk.folder))
        first, second = json.loads(run("status", "--json").stdout)["needs"]

    assert first == f"{AWAY} {DISK_FULL}"
    assert "has 1 MiB free" in second
    assert "Free some" in second


@pytest.mark.parametrize(("age", "code"), [(timedelta(seconds=30), 0), (timedelta(seconds=90), 1)])
def test_status_shows_the_spool_and_needs_a_person_when_it_is_old(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, age: timedelta, code: int
) -> None:
    assert json.loads(done("status", "--json"))["spool"]["reports"] == 0
    spooled(settings, "ReferenceId=a", "ReferenceId=b", ago=age)

    as_json, shown = run("status", "--json"), run("status")
    with database_away(settings, monkeypatch):
        away_as_json, away = run("status", "--json"), run("status")

    assert (as_json.exit_code, shown.exit_code) == (code, code)
    assert (away_as_json.exit_code, away.exit_code) == (4, 4)
    for result, first in ((as_json, []), (away_as_json, [f"{AWAY} {SAFE}"])):
        printed = json.loads(result.stdout)
        assert printed["spool"]["reports"] == 2
        assert 0 <= printed["spool"]["oldest_seconds"] - age.total_seconds() < 20
        assert datetime.fromisoformat(printed["spool"]["oldest_at"]) <= datetime.now(UTC) - age
        assert printed["spool"]["bytes"] > 0
        others = [need for need in printed["needs"] if "callbacks that wait in the spool: 2" in need]
        assert (printed["needs"], len(others)) == (first + others, code)
    for result in (shown, away):
        assert re.search(r"in the spool +2\b", result.stdout)
        assert ("! callbacks that wait in the spool: 2" in result.stdout) == bool(code)
    assert f"! {AWAY} {SAFE}" in away.stdout
    assert "Nothing needs you" not in away.stdout
    assert "Error: The database cannot be used" in away.stderr
