"""Counts the figures anew in plain Python, from the rows of calls: what views and roll-ups must equal."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from webapp.calls import rule
from webapp.calls.facts import DELAY_EDGES, TALK_EDGES
from webapp.calls.outcome import outcome
from webapp.calls.rule import Call
from webapp.esms.finality import SEND_STATUS_REJECTED
from webapp.storage import rollups
from webapp.storage.models import call_rollups, calls

if TYPE_CHECKING:
    from webapp.storage.database import Database

HANOI = ZoneInfo("Asia/Ho_Chi_Minh")
KEY = ("scope", "campaign", "facet", "local_day", "label")
Figures = dict[tuple[Any, ...], dict[str, int]]


def class_of(seconds: int, edges: tuple[int, ...]) -> int:
    """The upper edge of the class that these seconds are in; an edge belongs to its own class."""
    return min(edge for edge in edges if edge >= seconds)


@dataclass(frozen=True)
class Fact:
    """One call as people count it."""

    call: Call
    at: datetime
    """When it was placed, by the clocks of the zone."""
    outcome: str

    @property
    def day(self) -> date:
        return self.at.date()

    @property
    def answered(self) -> bool:
        return self.outcome == "answered"

    @property
    def with_outcome(self) -> bool:
        return self.outcome in {"answered", "unanswered", "other"}

    @property
    def talk_seconds(self) -> int | None:
        return self.call.call_duration if self.answered else None

    @property
    def keys_pressed(self) -> str | None:
        return self.call.ivr if self.answered else None

    @property
    def callback_seconds(self) -> int | None:
        if self.call.callback_at is None:
            return None
        return max(0, (self.call.callback_at - self.call.placed_at) // timedelta(seconds=1))

    @property
    def recovered(self) -> bool:
        return self.call.settled_by == "lookup" and self.call.callback_at is None

    @property
    def measures(self) -> dict[str, int]:
        price = self.call.price
        return {
            "calls": 1,
            "with_outcome": int(self.with_outcome),
            "answered": int(self.answered),
            "timed": int(self.talk_seconds is not None),
            "answered_seconds": self.talk_seconds or 0,
            "price": int(price or 0),
            "price_fraction": int((price or 0) % 1 * 10000),
            "unpriced": int(price is None),
            "recovered": int(self.recovered),
            "conflicts": int(self.call.conflict),
            "confirmed": int(self.call.confirmed_at is not None),
            "unregistered": int(self.call.registered_at is None),
        }

    @property
    def labels(self) -> dict[str, str]:
        found = {"outcome": self.outcome, "hour": f"{self.at.hour:02}"}
        if self.answered:
            keys = self.keys_pressed
            found["key"] = "none" if keys is None else keys if len(keys) == 1 else "several"
        if self.talk_seconds is not None:
            found["talk"] = str(class_of(self.talk_seconds, TALK_EDGES))
        if self.callback_seconds is not None:
            found["delay"] = str(class_of(self.callback_seconds, DELAY_EDGES))
        return found


def facts_of(database: Database, zone: ZoneInfo = HANOI) -> list[Fact]:
    """Every stored call."""
    columns = [calls.c[field.name] for field in fields(rule.Call)]
    with database.snapshot(limited=False) as connection:
        found = [Call(**row) for row in connection.execute(select(*columns)).mappings()]
    return [Fact(call, call.placed_at.astimezone(zone), outcome(call, SEND_STATUS_REJECTED)) for call in found]


def recounted(facts: list[Fact]) -> Figures:
    """The rows that the roll-up must have."""
    figures: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for fact in facts:
        campaign = fact.call.campaign
        for facet, label in fact.labels.items():
            for scope in (("all", None), ("none" if campaign is None else "campaign", campaign)):
                figures[*scope, facet, fact.day, label].update(fact.measures)
    return {key: {name: counts[name] for name in counts} for key, counts in figures.items()}


def stored_figures(database: Database) -> Figures:
    """The rows that it has; none may be there twice."""
    with database.snapshot(limited=False) as connection:
        rows = list(connection.execute(select(call_rollups)).mappings())
    found = {
        tuple(row[name] for name in KEY): {name: value for name, value in row.items() if name not in KEY}
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def refresh_all(database: Database) -> None:
    """Refresh until no mark waits."""
    while rollups.waiting(database, None):
        rollups.refresh(database)


def assert_figures_equal_a_recount(database: Database, zone: ZoneInfo = HANOI) -> None:
    refresh_all(database)
    assert stored_figures(database) == recounted(facts_of(database, zone))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
