"""What storage does for look-ups, each in a transaction of its own: claims, runs and the shared rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.storage import claims, lookup_rate, runs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from webapp.storage.claims import Claimed, Due
    from webapp.storage.database import Database
    from webapp.storage.runs import Run


def claim(
    database: Database, due: Due, limit: int, *, now: datetime, until: datetime, reserved: int = 0
) -> list[Claimed]:
    with database.transaction() as connection:
        return claims.claim(connection, due, limit, now=now, until=until, reserved=reserved)


def renew(database: Database, leases: Mapping[str, datetime], until: datetime) -> set[str]:
    with database.transaction() as connection:
        return claims.renew(connection, leases, until)


def release(database: Database, leases: Mapping[str, datetime]) -> None:
    with database.transaction() as connection:
        claims.release(connection, leases)


def start_run(database: Database, run: Run, *, lease: timedelta) -> None:
    with database.transaction() as connection:
        runs.start_run(connection, run, lease=lease)


def save_run(database: Database, run: Run) -> None:
    with database.transaction() as connection:
        runs.save_run(connection, run)


def pause_lookups(database: Database, seconds: float) -> None:
    """Let no run's look-up leave for that many seconds."""
    with database.transaction() as connection:
        lookup_rate.slow_down(connection, seconds, halve=False)
