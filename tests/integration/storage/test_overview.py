"""The overview compares like with like: days that are over with as many whole days, today with the same hours."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING

import pytest
from makers import NOW, callback
from recount import HANOI, Fact, facts_of, refresh_all

from webapp.calls.rule import Registration
from webapp.storage.claims import Due
from webapp.storage.figures import Days
from webapp.storage.overview import Compared, read_overview

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
TODAY = date(2026, 11, 23)
BEGIN = datetime(2026, 11, 23, tzinfo=HANOI)


@pytest.fixture
def facts(database: Database, writer: Writer) -> list[Fact]:
    """A call each seven hours of a month that ends at 17:30 today; every third in a campaign, every second answered."""
    moments = [BEGIN + timedelta(hours=17.5 - 7 * number) for number in range(100)]
    writer.register(
        [
            Registration(reference_id=f"c{number}", placed_at=moment, campaign=None if number % 3 else "tet")
            for number, moment in enumerate(moments)
        ],
        NOW,
    )
    writer.record(
        [callback(f"c{number}", call_status="NOANSWERED" if number % 2 else "ANSWERED") for number in range(90)], NOW
    )
    refresh_all(database)
    return facts_of(database)


def compared(database: Database, days: Days, now: datetime) -> Compared | None:
    with database.snapshot() as connection:
        return read_overview(connection, days, Due(placed_until=now, due_until=now), now).compared


def counted(facts: list[Fact], begin: datetime, end: datetime, campaign: str | None) -> tuple[int, int]:
    of = [fact for fact in facts if begin <= fact.at < end and campaign in {None, fact.call.campaign}]
    return len(of), sum(fact.answered for fact in of)


def test_days_up_to_today_are_compared_up_to_the_same_hour(database: Database, facts: list[Fact]) -> None:
    for campaign, length, clock in product([None, "tet"], [1, 2, 7, 13], ["00:10", "10:00", "17:40", "23:59"]):
        now = datetime.fromisoformat(f"{TODAY}T{clock}+07:00").astimezone(HANOI)
        days = Days(TODAY - timedelta(days=length - 1), TODAY + timedelta(days=1), campaign)

        found = compared(database, days, now)

        assert found
        assert found.until_hour == now.hour
        end, whole = now.replace(minute=0), timedelta(days=length)
        begin = BEGIN - timedelta(days=length - 1)
        assert (found.now.calls, found.now.answered) == counted(facts, begin, end, campaign), (campaign, length, clock)
        before = counted(facts, begin - whole, end - whole, campaign)
        assert (found.before.calls, found.before.answered) == before, (campaign, length, clock)


@pytest.mark.parametrize("length", [1, 5])
def test_days_that_are_over_are_compared_with_whole_days(database: Database, facts: list[Fact], length: int) -> None:
    whole = timedelta(days=length)

    found = compared(database, Days(TODAY - whole, TODAY), BEGIN + timedelta(hours=9))

    assert found
    assert found.until_hour is None
    assert (found.now.calls, found.now.answered) == counted(facts, BEGIN - whole, BEGIN, None)
    assert (found.before.calls, found.before.answered) == counted(facts, BEGIN - 2 * whole, BEGIN - whole, None)


def test_days_that_lie_ahead_are_compared_with_none(database: Database, facts: list[Fact]) -> None:
    assert facts

    assert compared(database, Days(TODAY, TODAY + timedelta(days=2)), BEGIN) is None
    assert compared(database, Days(), BEGIN) is None
