"""Purge beside the server: it is interrupted and run again, callbacks are stored meanwhile, and totals stay."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import requests
from commands import SET, done
from constants import CALLBACK_TOKEN
from makers import at, callback
from recount import facts_of, recounted, refresh_all, stored_figures
from running import Program, serving
from sqlalchemy import func, select
from until import until

from webapp.storage.models import calls, status_reports

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

OLD = -11 * 365 * 86400
NUMBER = 5000
_LONGEST_SECONDS = 2.0
"""Callbacks wait for one batch, on SQLite (measured: a tenth of a second). Without pauses they would wait for all."""


def old_calls(database: Database) -> int:
    with database.snapshot() as connection:
        return connection.scalar(select(func.count()).where(calls.c.reference_id.startswith("old-"))) or 0


@SET
def test_callbacks_are_stored_while_a_purge_runs_and_one_that_is_interrupted_is_finished_by_the_next(
    database: Database, writer: Writer, tmp_path: Path
) -> None:
    for start in range(0, NUMBER, 500):
        numbers = range(start, start + 500)
        writer.record([callback(f"old-{one}", OLD + one, call_status="ANSWERED", ivr="1") for one in numbers], at(OLD))
    kept = recounted(facts_of(database))
    slowest, number = 0.0, 0
    with serving(tmp_path / "log", "--workers", "1") as url, requests.Session() as esms:
        with Program("purge", "--older-than", "3650d", "--keep-totals", environment={}) as purge:
            until(lambda: old_calls(database) < NUMBER)
            purge.send_signal(signal.SIGINT)
            while purge.poll() is None:
                number += 1
                began = time.monotonic()
                query = f"ReferenceId=beside-{number}&CallStatus=ANSWERED&SendStatus=5"
                answer = esms.get(f"{url}/esms/callback/{CALLBACK_TOKEN}?{query}", timeout=10)
                slowest = max(slowest, time.monotonic() - began)
                assert (answer.status_code, answer.json()) == (200, {"result": "settled"})
            assert purge.wait(30) == 130
        assert 0 < old_calls(database) < NUMBER
        done("purge", "--older-than", "3650d", "--keep-totals")

    assert old_calls(database) == 0
    assert slowest < _LONGEST_SECONDS
    with database.snapshot() as connection:
        assert connection.scalar(select(func.count()).select_from(status_reports)) == number
    refresh_all(database)
    of_today = recounted(facts_of(database))
    assert stored_figures(database) == kept | of_today
