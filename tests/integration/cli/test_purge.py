"""The command purge: old calls go with their history, and figures stay true, with and without their totals."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from commands import ON_SQLITE, SET, done, rejected, run
from histories import write_history
from makers import NOW, at, callback, change_by_hand, lookup, stored_reports
from recount import (
    assert_figures_equal_a_recount,
    facts_of,
    recounted,
    refresh_all,
    stored_figures,
)
from sqlalchemy import func, select

from webapp.calls.rule import Registration
from webapp.storage import purge as purging
from webapp.storage.models import calls, kept_rollups, rejected_callbacks, status_reports
from webapp.storage.purge import Purge, Purged
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy import Table

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader

AGE = "3650d"
"""Ten years: the command's clock is the real one, and what is new here must stay so."""
OLD = -11 * 365 * 86400
"""Seconds from NOW to what is older."""
YOUNGEST = at(-3650 * 86400)


def old_and_new(writer: Writer) -> None:
    """Three old calls, of two campaigns and none, with two reports each, and a new one."""
    old = [
        Registration(reference_id=name, campaign=campaign, placed_at=at(OLD + seconds))
        for name, campaign, seconds in (("old-1", "june", 0), ("old-2", "july", 7200), ("old-3", None, 86400))
    ]
    writer.register([*old, Registration(reference_id="new", campaign="june", placed_at=NOW)], NOW)
    for name, seconds in (("old-1", OLD), ("old-2", OLD + 7200), ("old-3", OLD + 86400), ("new", 0)):
        said = {"call_status": "ANSWERED", "call_duration": 13, "ivr": "1", "price": Decimal(450)}
        reports = [callback(name, seconds + 1, send_status=7), callback(name, seconds + 9, send_status=5, **said)]
        writer.record(reports, at(seconds + 10))


def rows(database: Database, table: Table) -> int:
    with database.snapshot() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


@SET
def test_old_calls_go_with_their_history_and_out_of_the_figures(
    database: Database, writer: Writer, reader: Reader
) -> None:
    old_and_new(writer)
    refresh_all(database)

    printed = done("purge", "--older-than", AGE)

    assert printed.startswith("removed 3 calls, 6 reports, 0 rejected callbacks from before ")
    assert reader.call("old-1") is None
    assert stored_reports(database, "old-1") == []
    assert len(stored_reports(database, "new")) == 2
    assert_figures_equal_a_recount(database)
    assert done("purge", "--older-than", AGE).startswith("removed 0 calls, 0 reports, 0 rejected")


@SET
def test_kept_totals_stay_in_the_figures_after_a_refresh_and_after_a_rebuild(
    database: Database, writer: Writer
) -> None:
    old_and_new(writer)
    all_calls = recounted(facts_of(database))

    done("purge", "--older-than", AGE, "--keep-totals")

    assert rows(database, calls) == 1
    assert stored_figures(database) == all_calls
    done("rollups", "rebuild")
    assert stored_figures(database) == all_calls
    change_by_hand(database, "DELETE FROM call_rollups")
    done("rollups", "rebuild")
    assert stored_figures(database) == all_calls


@SET
def test_totals_are_kept_once_however_often_calls_of_a_day_are_purged(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "AT_ONCE", 7)
    for name in range(25):
        writer.record([callback(f"a-{name}", OLD + name, call_status="ANSWERED", call_duration=name)], at(OLD + 99))
    all_calls = recounted(facts_of(database))
    done("purge", "--older-than", AGE, "--keep-totals")
    done("purge", "--older-than", AGE, "--keep-totals")
    assert stored_figures(database) == all_calls

    writer.record([callback(f"b-{name}", OLD + name, call_status="BUSY") for name in range(9)], at(OLD + 99))
    more = recounted(facts_of(database))
    done("purge", "--older-than", AGE, "--keep-totals")

    refresh_all(database)
    summed = {key: dict(values) for key, values in all_calls.items()}
    for key, values in more.items():
        summed[key] = {name: value + summed.get(key, {}).get(name, 0) for name, value in values.items()}
    assert stored_figures(database) == summed


@SET
def test_after_any_history_purged_in_small_batches_the_figures_are_those_of_all_calls(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "AT_ONCE", 3)
    write_history(database, 5, 60)
    change_by_hand(database, "UPDATE calls SET claimed_until = NULL")
    all_calls = recounted(facts_of(database))
    assert len(all_calls) > 10

    done("purge", "--older-than", "0s", "--keep-totals")

    assert rows(database, calls) == rows(database, status_reports) == 0
    assert stored_figures(database) == all_calls


@SET
def test_a_time_zone_that_is_set_later_keeps_the_totals_of_purged_calls(database: Database, writer: Writer) -> None:
    old_and_new(writer)
    done("purge", "--older-than", AGE, "--keep-totals")

    done("time-zone", "set", "UTC")

    refresh_all(database)
    total = sum(
        row["calls"] for key, row in stored_figures(database).items() if key[0] == "all" and key[2] == "outcome"
    )
    assert total == 4


@SET
def test_a_dry_run_says_what_would_go_and_removes_nothing(database: Database, writer: Writer) -> None:
    old_and_new(writer)
    writer.reject(rejected(b"Price=1", seconds=OLD))

    printed = done("purge", "--older-than", AGE, "--dry-run", "--keep-totals")

    assert printed.startswith("would remove 3 calls, 6 reports, 1 rejected callbacks from before ")
    assert (rows(database, calls), rows(database, kept_rollups)) == (4, 0)


@SET
def test_old_rejected_callbacks_go_and_those_that_came_again_stay(database: Database, writer: Writer) -> None:
    writer.reject(rejected(b"Price=1", seconds=OLD))
    writer.reject(rejected(b"Price=2", seconds=OLD))
    writer.reject(rejected(b"Price=2", seconds=0))

    done("purge", "--older-than", AGE)

    with database.snapshot() as connection:
        assert connection.scalars(select(rejected_callbacks.c.count)).all() == [2]


@SET
@pytest.mark.parametrize("mode", ["plain", "hashed"])
def test_all_about_one_number_goes_and_nothing_about_others(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    for name, phone in (("a", "0901888484"), ("b", "+84 901 888 484"), ("c", "0901888485"), ("d", None)):
        writer.record([callback(name, 1, call_status="BUSY", phone=phone)], NOW)
    for query in (b"phonenumber=%2B84901888484", b"phonenumber=0901888485", b"Price=1"):
        writer.reject(rejected(query))
    if mode == "hashed":
        monkeypatch.setenv("PHONE_STORAGE", "hashed")
        done("hide-phones")

    assert (
        done("purge", "--phone", "0901 888 484") == "removed 2 calls, 2 reports, 1 rejected callbacks from any time\n"
    )

    with database.snapshot() as connection:
        assert sorted(connection.scalars(select(calls.c.reference_id))) == ["c", "d"]
    assert rows(database, rejected_callbacks) == 2
    assert_figures_equal_a_recount(database)
    assert run("purge", "--phone", "nobody").exit_code == 2


@SET
def test_a_late_report_of_a_purged_call_makes_a_call_of_its_own_and_leaves_kept_totals_alone(
    database: Database, writer: Writer, reader: Reader
) -> None:
    old_and_new(writer)
    done("purge", "--older-than", AGE, "--keep-totals")
    before = stored_figures(database)

    assert writer.record([callback("old-1", 60, call_status="ANSWERED")], at(60)) == ["settled"]

    call = reader.call("old-1")
    assert call is not None
    assert (call["report_count"], call["placed_at"], call["registered_at"]) == (1, "2026-11-23T10:01:00.000000Z", None)
    assert done("replay", "--check") == ""
    refresh_all(database)
    of_old_days = {key: row for key, row in stored_figures(database).items() if key[3] < at(0).date()}
    assert of_old_days == {key: row for key, row in before.items() if key[3] < at(0).date()}


@SET
def test_a_call_that_reconcile_asks_about_stays_and_is_named(database: Database, writer: Writer) -> None:
    old_and_new(writer)
    later = datetime.now(UTC) + timedelta(minutes=5)
    change_by_hand(
        database,
        "UPDATE calls SET claimed_until = :until WHERE reference_id = 'old-2'",
        until=later if not database.is_sqlite else later.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    )

    result = run("purge", "--older-than", AGE)

    assert result.exit_code == 1
    assert "1 calls stay: they are in use now. Run it again." in result.stderr
    assert rows(database, calls) == 2


@SET
def test_reports_that_come_while_a_purge_runs_are_stored_with_their_calls(database: Database, writer: Writer) -> None:
    names = [f"call-{number:03}" for number in range(120)]
    writer.register([Registration(reference_id=name, placed_at=at(OLD)) for name in names], NOW)
    work = Purge(database, YOUNGEST, keep_totals=True)
    ended = threading.Event()

    def report_all() -> None:
        mine = Writer(database)
        for name in random.Random(1).sample(names, len(names)):  # noqa: S311 - no secret
            mine.record([callback(name, 1, call_status="ANSWERED"), lookup(name, 2, call_status="ANSWERED")], at(3))
        ended.set()

    thread = threading.Thread(target=report_all)
    thread.start()
    removed = Purged()
    while not ended.is_set() or removed.calls:
        removed = work.remove_calls(NOW)
    thread.join()

    # Whatever the order was: every call is the fold of its history, and no report is without its call.
    assert done("replay", "--check") == ""
    with database.snapshot() as connection:
        orphans = select(func.count()).where(~status_reports.c.reference_id.in_(select(calls.c.reference_id)))
        assert connection.scalar(orphans) == 0
    kept = select(func.coalesce(func.sum(kept_rollups.c.calls), 0)).where(kept_rollups.c.facet == "outcome")
    with database.snapshot() as connection:
        assert connection.scalar(kept) == len(names)


@SET
@ON_SQLITE
def test_an_interrupted_purge_leaves_whole_batches_and_is_finished_by_the_next(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "AT_ONCE", 2)
    old_and_new(writer)
    all_calls = recounted(facts_of(database))
    Purge(database, YOUNGEST, keep_totals=True).remove_calls(NOW)
    assert rows(database, calls) == 2
    refresh_all(database)
    assert stored_figures(database) == all_calls

    done("purge", "--older-than", AGE, "--keep-totals")

    assert stored_figures(database) == all_calls
    assert rows(database, calls) == 1


@SET
@ON_SQLITE
@pytest.mark.parametrize("given", [[], ["--older-than", "soon"]])
def test_what_is_no_age_is_named(given: list[str]) -> None:
    result = run("purge", *given)
    assert result.exit_code == 2
    assert "--older-than" in result.stderr
