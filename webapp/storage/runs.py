"""Writes reconcile runs, each time in a transaction of its own: one row a run, and the end of those that died."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args
from uuid import UUID

from sqlalchemy import and_, func, insert, update

from webapp.storage.models import reconcile_runs
from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from webapp.storage.database import Database

RunOutcome = Literal["done", "failures", "refused", "interrupted", "died"]
RUN_OUTCOMES: tuple[RunOutcome, ...] = get_args(RunOutcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A reconcile run: the names are the columns of ``reconcile_runs``."""

    id: UUID
    started_at: datetime
    host: str
    finished_at: datetime | None = None
    outcome: RunOutcome | None = None
    checked: int = 0
    settled: int = 0
    pending: int = 0
    not_found: int = 0
    failed: int = 0
    gave_up: int = 0
    seen_at: datetime | None = None
    answered_at: datetime | None = None


def outcome_now(run: Mapping[str, Any], now: datetime, lease: timedelta) -> RunOutcome | None:
    """How a run ended, by its row; None: it is under way.

    One that has not renewed its lease has died, although its row does not say so yet.
    """
    expired = run["finished_at"] is None and (run["seen_at"] or run["started_at"]) < now - lease
    outcome: RunOutcome | None = "died" if expired else run["outcome"]
    return outcome


@retrying
def start_run(database: Database, run: Run, *, lease: timedelta) -> None:
    """Write the run's row, unfinished; and close runs that died: their last ``seen_at`` is older than a lease.

    Raises ``Unavailable``.
    """
    seen_at = func.coalesce(reconcile_runs.c.seen_at, reconcile_runs.c.started_at)
    silent = and_(reconcile_runs.c.finished_at.is_(None), seen_at < run.started_at - lease)
    with database.transaction() as connection:
        connection.execute(update(reconcile_runs).where(silent).values(outcome="died", finished_at=seen_at))
        connection.execute(insert(reconcile_runs).values(asdict(run)))


@retrying
def save_run(database: Database, run: Run) -> None:
    """Write the run's row as it now is. Raises ``Unavailable``."""
    with database.transaction() as connection:
        connection.execute(update(reconcile_runs).where(reconcile_runs.c.id == run.id).values(asdict(run)))
