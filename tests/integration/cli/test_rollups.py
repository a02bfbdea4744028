"""The commands rollups rebuild, time-zone show and time-zone set."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from commands import ON_SQLITE, SET, done, run
from histories import write_history
from makers import change_by_hand
from recount import assert_figures_equal_a_recount, facts_of, recounted, stored_figures

from webapp.storage import rollups, time_zone
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.database import Database


def zone_in(database: Database) -> str:
    with database.snapshot() as connection:
        return time_zone.zone_of(connection)


@SET
def test_a_rebuild_makes_right_what_sql_has_changed(database: Database) -> None:
    write_history(database, 5, 20)
    done("rollups", "rebuild")
    assert stored_figures(database) == recounted(facts_of(database))
    change_by_hand(database, "UPDATE calls SET campaign = 'by hand'")

    printed = done("rollups", "rebuild")

    assert printed.startswith("The figures are up to date: ")
    assert stored_figures(database) == recounted(facts_of(database))
    assert rollups.waiting(database, None) == 0


@SET
def test_a_rebuild_of_an_empty_database_has_nothing_to_do(database: Database) -> None:  # noqa: ARG001 - it is made
    assert done("rollups", "rebuild") == "The figures are up to date: 0 days computed here.\n"


@SET
def test_days_are_counted_in_another_zone_once_it_is_set(database: Database) -> None:
    write_history(database, 6, 20)
    assert done("time-zone", "show") == "Asia/Ho_Chi_Minh\n"

    result = run("time-zone", "set", "Asia/Kolkata")

    assert result.exit_code == 0
    assert result.stdout.startswith("The time zone is Asia/Kolkata now; it was Asia/Ho_Chi_Minh. Figures of ")
    assert "Set TIME_ZONE to Asia/Kolkata, too" in result.stderr
    assert stored_figures(database) == recounted(facts_of(database, ZoneInfo("Asia/Kolkata")))
    assert done("time-zone", "show") == "Asia/Kolkata\n"
    assert done("time-zone", "set", "Asia/Kolkata") == "The time zone was Asia/Kolkata already.\n"


@ON_SQLITE
@SET
@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Asia", "'Asia' is not the name of a time zone, such as Asia/Ho_Chi_Minh or UTC."),
        ("../etc/passwd", "is not the name of a time zone"),
        ("Europe/Berlin", "SQLite knows no time zones, and Europe/Berlin does not have the same time all year"),
    ],
)
def test_a_zone_that_cannot_be_used_is_refused_in_words(database: Database, zone: str, words: str) -> None:
    write_history(database, 6, 5)
    result = run("time-zone", "set", zone)

    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert zone_in(database) == "Asia/Ho_Chi_Minh"
    assert_figures_equal_a_recount(database)


@SET
def test_a_database_without_calls_gets_the_zone_of_the_settings_when_it_is_migrated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIME_ZONE", "Asia/Bangkok")
    done("migrate")
    assert zone_in(database) == "Asia/Bangkok"

    write_history(database, 6, 5)
    monkeypatch.setenv("TIME_ZONE", "Asia/Tokyo")
    result = run("migrate")

    assert result.exit_code == 0
    assert zone_in(database) == "Asia/Bangkok"
    assert "run `esms-calls time-zone set Asia/Tokyo`, or set TIME_ZONE to Asia/Bangkok" in result.stderr


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_zone_with_summer_time_leaves_sqlite_usable_with_a_warning(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATABASE_URL": empty_database_url, "TIME_ZONE": "Europe/Berlin"}.items():
        monkeypatch.setenv(name, value)
    assert load_settings().time_zone.key == "Europe/Berlin"

    result = run("migrate")

    assert result.exit_code == 0
    assert "Warning: views and figures count days in Asia/Ho_Chi_Minh. SQLite knows no time zones" in result.stderr
