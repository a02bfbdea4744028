"""The fifteen questions of docs/data.md, with their statements, and what Python finds by counting anew."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from makers import stored_reports
from recount import HANOI, Fact, class_of
from sqlalchemy import text

from webapp.calls.facts import DELAY_EDGES
from webapp.calls.phone import e164
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from webapp.storage.database import Database

DOCUMENT = Path(__file__).parents[2] / "docs/data.md"
PHONE, STORY = "+84901888484", "066107ee-6ec4-4283-b595-aa74977c65c5"
SINCE = date(2026, 11, 1)


def questions() -> dict[str, str]:
    """Each question of the document and its statement."""
    section = DOCUMENT.read_text().split("## Fifteen questions in SQL")[1].split("\n## ")[0]
    found = re.findall(r"\n\n([^\n]+(?:\n[^\n]+)*):\n\n```sql\n(.*?)```", section, re.DOTALL)
    return dict(found)


def simple(value: Any) -> Any:
    """A value as both databases have it, as text: numbers with ten digits, booleans as 0 and 1."""
    if isinstance(value, Decimal | float | int):
        return f"{float(value):.10g}"
    if isinstance(value, datetime) and not value.tzinfo:
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    return plain(value)


def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.snapshot(limited=False) as connection:
        return [tuple(map(simple, row)) for row in connection.execute(text(statement))]


def expected(found: Iterable[Iterable[Any]]) -> list[tuple[Any, ...]]:
    return [tuple(map(simple, row)) for row in found]


def by(facts: list[Fact], key: Callable[[Fact], Any]) -> list[tuple[Any, list[Fact]]]:
    """Groups by a key."""
    groups = defaultdict(list)
    for fact in facts:
        groups[key(fact)].append(fact)
    return list(groups.items())


def share(facts: list[Fact]) -> float | None:
    of = sum(fact.with_outcome for fact in facts)
    return sum(fact.answered for fact in facts) / of if of else None


def mean(facts: list[Fact]) -> float | None:
    seconds = [fact.talk_seconds for fact in facts if fact.talk_seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


def price(facts: list[Fact]) -> float:
    return float(sum((fact.call.price or Decimal(0) for fact in facts), Decimal(0)))


def answered_call_vnd(facts: list[Fact]) -> float | None:
    answered = sum(fact.answered for fact in facts)
    return price([fact for fact in facts if fact.outcome != "delivered"]) / answered if answered else None


def percentile(values: list[int], percent: int) -> int:
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def sorted_rows(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """NULL sorts first on SQLite and last on PostgreSQL, where the statement does not say."""
    return sorted(found, key=str)


def a_day_ago(number: int) -> date:
    return datetime.now(HANOI).date() - timedelta(days=number)


ANSWERS: dict[str, Callable[[list[Fact], Database], Iterable[Iterable[Any]]]] = {
    "Answered share by local hour": lambda facts, _: (
        (hour, len(some), share(some)) for hour, some in by(facts, lambda fact: fact.at.hour)
    ),
    "By weekday (1 is Monday)": lambda facts, _: (
        (day, len(some), share(some)) for day, some in by(facts, lambda fact: fact.at.isoweekday())
    ),
    "By day": lambda facts, _: (
        (day, len(some), share(some)) for day, some in by(facts, lambda fact: fact.day) if day >= SINCE
    ),
    "By campaign": lambda facts, _: (
        (name, len(some), share(some)) for name, some in by(facts, lambda fact: fact.call.campaign)
    ),
    "Which keys were pressed": lambda facts, _: Counter(fact.labels["key"] for fact in facts if fact.answered).items(),
    "Mean, median and 95th percentile of talk time, in seconds": lambda facts, _: [talk_times(facts)],
    "What a campaign cost. Mostly only callbacks say a price: count the calls without one beside the sum": (
        lambda facts, _: (
            (name, price(some), sum(fact.call.price is None for fact in some))
            for name, some in by(facts, lambda fact: fact.call.campaign)
        )
    ),
    "What an answered call cost, voice OTP left out": lambda facts, _: (
        (name, answered_call_vnd(some)) for name, some in by(facts, lambda fact: fact.call.campaign)
    ),
    "How long callbacks take, in seconds (upper edges of classes)": lambda facts, _: (
        (day, campaign, len(some), *(percentile(some, percent) for percent in (50, 95, 99)))
        for (day, campaign), calls in by(facts, lambda fact: (fact.day, fact.call.campaign))
        if day >= SINCE
        and (
            some := [
                class_of(fact.callback_seconds, DELAY_EDGES) for fact in calls if fact.callback_seconds is not None
            ]
        )
    ),
    "How many calls callbacks disagree about now, and ever did": lambda facts, database: [
        (
            sum(fact.call.conflict for fact in facts),
            sum(
                any(report_effect == "conflict" for report_effect in effects(database, fact.call.reference_id))
                for fact in facts
            ),
        )
    ],
    "All calls to one phone": lambda facts, _: (
        (fact.call.placed_at, fact.call.reference_id, fact.outcome, fact.talk_seconds, fact.keys_pressed)
        for fact in sorted(facts, key=lambda fact: fact.call.placed_at)
        if fact.call.phone is not None and e164(fact.call.phone) == PHONE
    ),
    "Yesterday against the day before": lambda facts, _: (
        (day, len(some), sum(fact.answered for fact in some))
        for day, some in by(facts, lambda fact: fact.day)
        if day in {a_day_ago(1), a_day_ago(2)}
    ),
    "Of the settled calls, the share whose callback was lost and that a look-up recovered": lambda facts, _: [
        (sum(fact.recovered for fact in facts) / sum(fact.call.settled for fact in facts),)
    ],
    "The story of one call": lambda _, database: (
        (
            report.received_at.astimezone(HANOI).replace(tzinfo=None),
            *(report.source, effect, report.call_status, report.call_duration, report.ivr),
        )
        for report, effect in zip(stored_reports(database, STORY), effects(database, STORY), strict=True)
    ),
}
"""What Python finds, by the question; how old missing calls are depends on the clock, and has a test of its own."""
MISSING = "How many calls are missing, and how old the oldest is"


def talk_times(facts: list[Fact]) -> tuple[float, int, int]:
    seconds = [fact.talk_seconds for fact in facts if fact.talk_seconds is not None and fact.day >= SINCE]
    return sum(seconds) / len(seconds), percentile(seconds, 50), percentile(seconds, 95)


def effects(database: Database, reference_id: str) -> list[str]:
    query = text("SELECT effect FROM status_reports WHERE reference_id = :name ORDER BY received_at, id")
    with database.snapshot() as connection:
        return list(connection.scalars(query, {"name": reference_id}))
