"""Reports split by month: all is stored, once, and found as before; a month is removed when its calls are gone."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from commands import ON_POSTGRESQL, ON_SQLITE, run
from makers import NOW, callback, stored_call, stored_reports
from sqlalchemy import text

from webapp.storage.grants import ReadOnlyRole, grant
from webapp.storage.partitions import MONTHS_AHEAD, are_partitioned, partition_reports, split_reports
from webapp.storage.purge import Purge
from webapp.storage.schema import views_module

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

MONTH = 31 * 24 * 3600.0
"""Seconds behind NOW, which is in November 2026."""


class _Undo(Exception):
    pass


def partitions(database: Database) -> dict[str, int]:
    """The partitions that hold reports, and how many."""
    with database.snapshot() as connection:
        query = text("SELECT tableoid::regclass::text, count(*) FROM status_reports GROUP BY 1")
        return {name.removeprefix("status_reports_"): number for name, number in connection.execute(query)}


@ON_POSTGRESQL
def test_what_was_stored_before_and_after_is_found_and_stored_once(database: Database, writer: Writer) -> None:
    early = [callback("old", 1, send_status=7), callback("other", 2, send_status=5)]
    writer.record(early, NOW)
    made = split_reports(database, NOW)
    late = [callback("old", place * MONTH, send_status=5, call_status="BUSY") for place in (1, 2, 40)]

    effects = [writer.record([report], NOW + timedelta(days=62))[0] for report in late]
    again = [writer.record([report], NOW + timedelta(days=62))[0] for report in [*late, *early]]

    assert (len(made), made[0], made[1]) == (MONTHS_AHEAD + 1, "status_reports_before", "status_reports_2027_01")
    assert effects[0] == "settled"
    assert again[:3] == effects
    assert partitions(database) == {"before": 3, "2027_01": 1, "later": 1}
    assert [report.id for report in stored_reports(database, "old")] == [early[0].id, *(report.id for report in late)]
    assert stored_call(database, "old").report_count == 4
    assert writer.refold(["old", "other"], NOW, check_only=True) == []
    database.check()


@ON_POSTGRESQL
def test_views_read_the_partitions_and_count_days_of_the_same_zone(database: Database, writer: Writer) -> None:
    zone = text("SELECT time_zone FROM figures_as_of")
    with database.snapshot() as connection:
        before = connection.scalar(zone)
    split_reports(database, NOW)
    writer.record([callback("new", MONTH * 3, send_status=5)], NOW)
    with database.snapshot() as connection:
        assert connection.scalar(zone) == before
        assert connection.scalar(text("SELECT count(*) FROM report_history WHERE reference_id = 'new'")) == 1
        for view in views_module().views(views_module().words_of("postgresql", "UTC", 0)):
            connection.execute(text(f"SELECT * FROM {view.name} LIMIT 1"))  # noqa: S608


@ON_POSTGRESQL
def test_a_role_that_only_reads_goes_on_reading(database: Database, writer: Writer) -> None:
    writer.record([callback("old", 1)], NOW)
    role = f"reader_{uuid4().hex}"
    wanted = ReadOnlyRole(role, timedelta(minutes=1), 5)
    with contextlib.suppress(_Undo), database.transaction() as connection:
        grant(connection, wanted)
        partition_reports(connection, NOW)
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        for name in ("status_reports", "report_history", "call_facts"):
            assert connection.scalar(text(f"SELECT count(*) FROM {name}")) == 1  # noqa: S608
        raise _Undo


@ON_POSTGRESQL
def test_repeated_it_only_adds_the_months_that_follow(database: Database) -> None:
    assert len(split_reports(database, NOW)) == MONTHS_AHEAD + 1
    assert split_reports(database, NOW) == []
    assert split_reports(database, NOW + timedelta(days=31))[-1:] == ["status_reports_2029_01"]
    with database.snapshot() as connection:
        assert are_partitioned(connection)


@ON_POSTGRESQL
@pytest.mark.usefixtures("settings")
def test_a_month_is_removed_when_its_calls_were_purged(database: Database, writer: Writer) -> None:
    split_reports(database, NOW)
    writer.record([callback("january", 2 * MONTH), callback("march", 4 * MONTH)], NOW)
    assert partitions(database) == {"2027_01": 1, "2027_03": 1}

    Purge(database, datetime(2027, 2, 1, tzinfo=UTC), keep_totals=False).remove_calls(NOW)
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE status_reports DETACH PARTITION status_reports_2027_01"))
        assert connection.scalar(text("SELECT count(*) FROM status_reports_2027_01")) == 0
        connection.execute(text("DROP TABLE status_reports_2027_01"))

    assert partitions(database) == {"2027_03": 1}
    assert run("replay", "--check").exit_code == 0


@ON_POSTGRESQL
@pytest.mark.usefixtures("settings", "database")
def test_the_command_says_what_it_made() -> None:
    first, second = (run("migrate", "--partition-reports") for _ in range(2))
    assert "status_reports is split by month: 25 partitions are new, to status_reports_20" in first.stdout
    assert "status_reports is split by month: 0 partitions are new." in second.stdout


@ON_SQLITE
@pytest.mark.usefixtures("settings", "database")
def test_sqlite_has_none() -> None:
    result = run("migrate", "--partition-reports")
    assert (result.exit_code, "SQLite has no partitions" in result.stderr) == (2, True)
