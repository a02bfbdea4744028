"""The figures equal a recount in Python after any history, written by many beside the refresher."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from commands import ON_POSTGRESQL, ON_SQLITE
from constants import SOAK
from histories import DEEDS, write_history
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import NOW, at, callback, change_by_hand, lookup
from recount import (
    HANOI,
    assert_figures_equal_a_recount,
    facts_of,
    recounted,
    refresh_all,
    stored_figures,
    utc,
)
from running import PROCESSES
from sqlalchemy import select

from webapp.calls.rule import Registration
from webapp.storage import figures, rollups, time_zone
from webapp.storage.database import Database
from webapp.storage.models import rollup_marks
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier, Event

    from sqlalchemy.engine import Connection

PATIENCE = timedelta(seconds=60)
SECONDS = 120


def marks(database: Database) -> list[object]:
    with database.snapshot() as connection:
        return list(connection.scalars(select(rollup_marks.c.hour).order_by(rollup_marks.c.id)))


# Any history


def write_in_a_process(url: str, seed: int, start: Barrier) -> None:
    database = Database(url, patience=PATIENCE)
    start.wait(SECONDS)
    write_history(database, seed, 40)
    database.close()


def refresh_in_a_process(url: str, ended: Event, start: Barrier) -> None:
    database = Database(url, patience=PATIENCE)
    start.wait(SECONDS)
    while not ended.is_set():
        rollups.refresh(database)
        time.sleep(0.01)
    database.close()


@pytest.mark.parametrize("seed", range(2 if SOAK else 1))
def test_after_histories_of_several_processes_beside_two_refreshers_the_figures_equal_a_recount(
    database: Database, seed: int
) -> None:
    url = database.url.render_as_string(hide_password=False)
    start, ended = PROCESSES.Barrier(5), PROCESSES.Event()
    writers = [
        PROCESSES.Process(target=write_in_a_process, args=(url, 100 * seed + number, start)) for number in range(3)
    ]
    refreshers = [PROCESSES.Process(target=refresh_in_a_process, args=(url, ended, start)) for _ in range(2)]
    for process in (*writers, *refreshers):
        process.start()
    for process in writers:
        process.join(SECONDS)
    ended.set()
    for process in refreshers:
        process.join(SECONDS)

    assert [process.exitcode for process in (*writers, *refreshers)] == [0] * 5
    assert len(facts_of(database)) > 5
    assert_figures_equal_a_recount(database)


@ON_SQLITE
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(st.tuples(st.sampled_from([*DEEDS, None]), st.integers(0, 2**32)), max_size=15))
def test_after_any_history_every_row_equals_a_recount(database: Database, deeds: list[tuple[object, int]]) -> None:
    writer = Writer(database)
    for table in ("calls", "status_reports", "call_rollups", "rollup_marks"):
        change_by_hand(database, f"DELETE FROM {table}")  # noqa: S608
    for deed, seed in deeds:
        if callable(deed):
            deed(writer, random.Random(seed))  # noqa: S311 - no secret
        else:
            rollups.refresh(database)
    assert_figures_equal_a_recount(database)


# Marks


def test_a_call_that_moves_to_another_day_leaves_the_figures_of_the_first(database: Database, writer: Writer) -> None:
    writer.record([callback("a", call_status="BUSY")], NOW)
    refresh_all(database)
    writer.register([Registration(reference_id="a", placed_at=at(-86400 * 3))], NOW)

    assert marks(database) == [at(-86400 * 3), NOW]
    assert_figures_equal_a_recount(database)
    assert {day for _, _, _, day, _ in stored_figures(database)} == {at(-86400 * 3).astimezone(HANOI).date()}


def test_what_changes_no_figure_marks_nothing(database: Database, writer: Writer) -> None:
    writer.register([Registration(reference_id="a", placed_at=NOW)], NOW)
    writer.record([callback("a", 5, call_status="BUSY"), lookup("a", 6, call_status="BUSY")], NOW)
    refresh_all(database)

    writer.record([callback("a", 7, call_status="BUSY"), lookup("a", 8, call_status="BUSY")], NOW)
    writer.dismiss(["a"], NOW)
    writer.register([Registration(reference_id="a", phone="0901888484")], NOW)

    assert marks(database) == []


def test_a_transaction_that_fails_leaves_no_mark(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as connection:
            rollups.mark(connection, [NOW], NOW)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert marks(database) == []


def test_calls_that_are_removed_leave_the_figures(database: Database, writer: Writer) -> None:
    writer.register([Registration(reference_id="a", placed_at=NOW)], NOW)
    refresh_all(database)
    assert stored_figures(database)

    writer.unregister(["a"], NOW)

    assert_figures_equal_a_recount(database)
    assert stored_figures(database) == {}


def test_changes_during_a_refresh_are_in_the_next_one(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.record([callback("a", call_status="BUSY")], NOW)
    replace = rollups._replace_days  # noqa: SLF001 - to act in between

    def late(*arguments: object) -> None:
        writer.record([callback("b", call_status="BUSY")], NOW)
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rollups, "_replace_days", late)
    assert rollups.refresh(database)
    monkeypatch.undo()

    assert len(marks(database)) == 1
    assert (
        sum(row["calls"] for key, row in stored_figures(database).items() if key[:3] == ("all", None, "outcome")) == 1
    )
    assert_figures_equal_a_recount(database)


def test_a_refresh_that_was_overtaken_writes_nothing(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.record([callback("a", call_status="BUSY")], NOW)
    replace = rollups._replace_days  # noqa: SLF001 - to act in between

    def overtaken(*arguments: object) -> None:
        monkeypatch.undo()
        writer.record([callback("b", call_status="BUSY")], NOW)
        assert rollups.refresh(database)
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rollups, "_replace_days", overtaken)

    assert rollups.refresh(database) is None
    assert stored_figures(database) == recounted(facts_of(database))


def test_a_refresh_that_was_overtaken_through_other_marks_of_its_day_writes_nothing(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.record([callback("first", call_status="BUSY")], NOW)
    refresh_all(database)
    writer.record([callback("a", call_status="BUSY")], NOW)
    replace, stale = rollups._replace_days, rollups._stale  # noqa: SLF001 - between the two another refresh comes

    def only_the_newest(connection: Connection) -> tuple[object, list[int], bool]:
        days, numbers, _ = stale(connection)
        return days, [max(numbers)], True

    def overtaken(*arguments: object) -> None:
        monkeypatch.setattr(rollups, "_replace_days", replace)
        writer.record([callback("b", call_status="BUSY")], NOW)
        monkeypatch.setattr(rollups, "_stale", only_the_newest)
        assert rollups.refresh(database)
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rollups, "_replace_days", overtaken)

    assert rollups.refresh(database) is None
    assert stored_figures(database) == recounted(facts_of(database))


def test_the_newest_days_come_first_and_only_some_at_a_time(database: Database, writer: Writer) -> None:
    days = [at(86400 * number) for number in range(6)]
    writer.register(
        [Registration(reference_id=f"call-{number}", placed_at=day) for number, day in enumerate(days)], NOW
    )

    first = rollups.refresh(database)
    second = rollups.refresh(database)

    assert first
    assert first.more
    assert first.days == [day.astimezone(HANOI).date() for day in days[2:]]
    assert second
    assert (second.days, second.more) == ([day.astimezone(HANOI).date() for day in days[:2]], False)
    assert rollups.refresh(database) is None


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"])
def test_calls_of_the_first_and_last_years_are_counted(database: Database, writer: Writer, moment: str) -> None:
    writer.register([Registration(reference_id="a", placed_at=utc(moment)), Registration(reference_id="b")], NOW)
    writer.record([callback("a", call_status="BUSY")], NOW)

    refresh_all(database)

    counts = [row["calls"] for key, row in stored_figures(database).items() if key[:3] == ("all", None, "outcome")]
    assert counts == [1, 1]


def test_more_forged_prices_than_a_bigint_of_their_smallest_unit_holds_are_counted(database: Database) -> None:
    number = 92_500
    change_by_hand(
        database,
        "INSERT INTO calls (reference_id, placed_at, call_status, settled_at, price) WITH RECURSIVE numbers(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :number)"
        " SELECT 'forged-' || n, '2026-11-23T10:00:00.000000Z', 'ANSWERED', '2026-11-23T10:00:00.000000Z',"
        " 9999999999.9999 FROM numbers",
        number=number,
    )
    with database.transaction() as connection:
        rollups.mark(connection, [NOW], NOW)

    refresh_all(database)

    with database.snapshot() as connection:
        found = figures.summary(connection, figures.Days())
    assert (found.sums.calls, found.sums.price_vnd) == (number, number * Decimal("9999999999.9999"))


# All anew


def test_a_call_of_the_last_hour_that_there_is_does_not_stop_a_rebuild(database: Database, writer: Writer) -> None:
    writer.register([Registration(reference_id="a", placed_at=utc("9999-12-31T23:30:00"))], NOW)
    refresh_all(database)
    change_by_hand(database, "UPDATE calls SET campaign = 'by hand'")

    with database.transaction() as connection:
        rollups.mark_everything(connection, NOW)

    refresh_all(database)
    assert {campaign for scope, campaign, *_ in stored_figures(database) if scope == "campaign"} == {"by hand"}


def test_what_sql_has_changed_is_right_after_all_is_marked(database: Database, writer: Writer) -> None:
    writer.record([callback(name, 86400 * number, call_status="BUSY") for number, name in enumerate("abc")], NOW)
    refresh_all(database)
    change_by_hand(database, "DELETE FROM calls WHERE reference_id = 'a'")
    change_by_hand(database, "UPDATE calls SET call_status = 'ANSWERED' WHERE reference_id = 'b'")
    refresh_all(database)
    assert stored_figures(database) != recounted(facts_of(database))

    with database.transaction() as connection:
        rollups.mark_everything(connection, NOW)

    assert_figures_equal_a_recount(database)


@pytest.mark.parametrize("name", ["UTC", "Pacific/Marquesas", "Asia/Kathmandu"])
def test_another_time_zone_counts_its_own_days(database: Database, name: str) -> None:
    write_history(database, 7, 20)
    refresh_all(database)

    with database.transaction() as connection:
        time_zone.set_zone(connection, ZoneInfo(name), NOW)
    write_history(database, 8, 20)

    assert_figures_equal_a_recount(database, ZoneInfo(name))
    with database.snapshot() as connection:
        assert time_zone.zone_of(connection) == name


@ON_SQLITE
def test_sqlite_refuses_a_zone_with_summer_time_and_keeps_its_own(database: Database) -> None:
    write_history(database, 9, 10)

    with (
        pytest.raises(time_zone.UnfitZone, match="SQLite knows no time zones, and Europe/Berlin"),
        database.transaction() as connection,
    ):
        time_zone.set_zone(connection, ZoneInfo("Europe/Berlin"), NOW)

    assert_figures_equal_a_recount(database)


@ON_POSTGRESQL
def test_postgresql_counts_days_of_a_zone_with_summer_time(database: Database, writer: Writer) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    with database.transaction() as connection:
        time_zone.set_zone(connection, berlin, NOW)

    hours = [utc("2026-10-24T21:30:00") + timedelta(hours=number) for number in range(27)]
    writer.register(
        [Registration(reference_id=f"call-{number}", placed_at=hour) for number, hour in enumerate(hours)], NOW
    )

    assert_figures_equal_a_recount(database, berlin)
    hour_of_two = {key[4]: row["calls"] for key, row in stored_figures(database).items() if key[2] == "hour"}
    assert hour_of_two["02"] == 2
