"""The refresher: figures follow the calls while the server runs, one process does it, and outages pass."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import requests
from commands import ON_SQLITE
from constants import CALLBACK_TOKEN
from makers import NOW, callback, change_by_hand
from recount import facts_of, recounted, stored_figures
from running import serving
from until import until

from webapp.storage import rollups
from webapp.storage.errors import Unavailable
from webapp.storage.rollups import Refreshed
from webapp.storage.writer import Writer
from webapp.web.refresher import (
    CATCH_UP_FACTOR,
    LONGEST_PAUSE_SECONDS,
    PAUSE_FACTOR,
    SHORTEST_PAUSE_SECONDS,
    Refresher,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from webapp.storage.database import Database
    from webapp.support.settings import Settings


@ON_SQLITE
def test_figures_follow_the_calls_while_the_server_runs(settings: Settings, database: Database, tmp_path: Path) -> None:
    with serving(tmp_path / "log", DATABASE_URL=settings.database) as url:
        for number in range(20):
            query = f"ReferenceId=call-{number}&CallStatus=ANSWERED&CallDuration={number}&Price=450"
            requests.get(f"{url}/esms/callback/{CALLBACK_TOKEN}?{query}", timeout=10).raise_for_status()
        until(lambda: rollups.waiting(database, None) == 0 and bool(stored_figures(database)))

        assert len(facts_of(database)) == 20
        assert stored_figures(database) == recounted(facts_of(database))
    assert "ERROR" not in (tmp_path / "log").read_text()


@ON_SQLITE
def test_one_process_of_a_machine_refreshes_until_it_ends(database: Database, tmp_path: Path) -> None:
    first, second = (Refresher(database, tmp_path / "instance/figures-lock") for _ in range(2))
    Writer(database).record([callback("a", call_status="BUSY")], NOW)

    first.refresh_once()
    Writer(database).record([callback("b", call_status="BUSY")], NOW)
    second.refresh_once()
    assert rollups.waiting(database, None) == 1

    first.close()
    second.refresh_once()
    assert rollups.waiting(database, None) == 0
    second.close()


@ON_SQLITE
def test_a_slow_refresh_is_followed_by_a_long_pause_but_for_days_that_wait(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresher = Refresher(database, tmp_path / "lock")
    assert refresher.refresh_once() == SHORTEST_PAUSE_SECONDS

    def refresh(_: Database) -> Refreshed:
        time.sleep(0.25)
        return Refreshed([], more)

    monkeypatch.setattr(rollups, "refresh", refresh)
    more = False
    assert PAUSE_FACTOR * 0.25 <= refresher.refresh_once() <= LONGEST_PAUSE_SECONDS
    more = True
    assert CATCH_UP_FACTOR * 0.25 <= refresher.refresh_once() < PAUSE_FACTOR * 0.25
    refresher.close()


@ON_SQLITE
def test_an_outage_is_logged_once_and_passes(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refresher = Refresher(database, tmp_path / "lock")
    Writer(database).record([callback("a", call_status="BUSY")], NOW)
    change_by_hand(database, "ALTER TABLE rollup_marks RENAME TO away")
    with caplog.at_level(logging.WARNING):
        refresher.refresh_once()
        refresher.refresh_once()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the figures cannot be refreshed now" in caplog.text

    change_by_hand(database, "ALTER TABLE away RENAME TO rollup_marks")
    refresher.refresh_once()
    assert stored_figures(database) == recounted(facts_of(database))
    refresher.close()


@ON_SQLITE
def test_a_bug_is_logged_whole_and_does_not_end_the_work(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresher = Refresher(database, tmp_path / "lock")

    def fail(_: Database) -> None:
        raise KeyError

    monkeypatch.setattr(rollups, "refresh", fail)
    assert refresher.refresh_once() > SHORTEST_PAUSE_SECONDS
    assert "this is a bug" in caplog.text

    def away(_: Database) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(rollups, "refresh", away)
    assert refresher.refresh_once() == SHORTEST_PAUSE_SECONDS
    refresher.close()
