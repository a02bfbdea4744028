"""The views, alike on both databases: every column explained, every value equal to a recount in Python.

The fifteen questions of docs/data.md are run as they are written there.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from commands import ON_SQLITE
from histories import put_history
from makers import NOW, callback, lookup
from questions import (
    ANSWERS,
    MISSING,
    STORY,
    a_day_ago,
    by,
    expected,
    mean,
    price,
    questions,
    rows,
    share,
    sorted_rows,
)
from recount import Fact, facts_of, refresh_all, utc
from sqlalchemy import text

from webapp.calls.rule import Registration
from webapp.esms.lookup import LookupAnswer
from webapp.storage import schema
from webapp.storage.types import plain
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from webapp.storage.database import Database


@pytest.fixture
def facts(database: Database) -> list[Fact]:
    """A history with every oddity, and in it one call with a long story and one phone with several calls."""
    put_history(database, 3, 80)
    writer = Writer(database)
    today = datetime.now(UTC)
    writer.register(
        [
            Registration(reference_id="p1", phone="0901 888 484", campaign="tet", placed_at=utc("2026-11-20T02:00:00")),
            Registration(reference_id="p2", phone="84901888484", placed_at=utc("2026-11-20T01:00:00")),
            Registration(reference_id=STORY, campaign="tết", placed_at=utc("2026-11-20T17:30:00")),
            *(
                Registration(reference_id=f"day-{number}", placed_at=today - timedelta(hours=12 * number))
                for number in range(7)
            ),
        ],
        NOW,
    )
    answered = {"call_status": "ANSWERED", "call_duration": 31, "ivr": "0", "price": Decimal("450.5")}
    writer.record([callback(STORY, 1, send_status=7), callback(STORY, 2, **answered)], NOW)
    writer.record([callback(STORY, 3, call_status="BUSY"), lookup(STORY, 4, call_status="ANSWERED")], NOW)
    writer.record([callback(f"day-{number}", call_status="ANSWERED") for number in (1, 2, 3)], NOW)
    writer.conclude([LookupAnswer("p1", "105")], NOW, give_up=timedelta(0))
    refresh_all(database)
    return facts_of(database)


def test_the_document_answers_fifteen_questions_each_in_a_short_statement() -> None:
    assert questions().keys() == {*ANSWERS, MISSING}
    assert len(questions()) == 15
    assert max(statement.count("\n") for statement in questions().values()) <= 4


def test_each_question_has_the_answer_of_a_recount(database: Database, facts: list[Fact]) -> None:
    for question, statement in questions().items():
        if question == MISSING:
            continue
        found = rows(database, statement)
        assert found, question
        assert sorted_rows(found) == sorted_rows(expected(ANSWERS[question](facts, database))), question


def test_missing_calls_are_as_old_as_the_clock_says(database: Database, facts: list[Fact]) -> None:
    found: dict[str | None, tuple[int, Any]] = {
        name: (int(number), float(seconds)) for name, number, seconds in rows(database, questions()[MISSING])
    }
    now = datetime.now(UTC)
    missing = by([fact for fact in facts if fact.outcome == "missing"], lambda fact: fact.call.campaign)

    assert found.keys() == {name for name, _ in missing}
    for name, some in missing:
        oldest = max((now - fact.call.placed_at).total_seconds() for fact in some)
        assert found[name] == (len(some), pytest.approx(max(0, oldest), abs=60))


def test_call_facts_are_what_people_count(database: Database, facts: list[Fact]) -> None:
    statement = (
        "SELECT reference_id, local_day, local_hour, local_weekday, outcome, status_word, talk_seconds, keys_pressed,"
        " price_vnd, callback_seconds, recovered, confirmed, conflict, price_conflict, registered, campaign, kind,"
        " settled_by, price_is_final FROM call_facts"
    )
    in_python = [
        (
            *(fact.call.reference_id, fact.day, fact.at.hour, fact.at.isoweekday(), fact.outcome),
            fact.call.call_status if fact.outcome == "other" else None,
            *(fact.talk_seconds, fact.keys_pressed, fact.call.price, fact.callback_seconds, fact.recovered),
            *(fact.call.confirmed_at is not None, fact.call.conflict, fact.call.price_conflict),
            *(fact.call.registered_at is not None, fact.call.campaign, fact.call.kind, fact.call.settled_by),
            fact.call.price is not None and fact.call.callback_at is not None,
        )
        for fact in facts
    ]
    assert sorted_rows(rows(database, statement)) == sorted_rows(expected(in_python))
    assert {fact.outcome for fact in facts} >= {"answered", "unanswered", "other", "missing", "given_up"}


def test_daily_outcomes_and_campaign_results_add_up(database: Database, facts: list[Fact]) -> None:
    daily = [
        (day, campaign, outcome, len(some), sum(fact.talk_seconds or 0 for fact in some), price(some))
        for (day, campaign, outcome), some in by(facts, lambda fact: (fact.day, fact.call.campaign, fact.outcome))
    ]
    found = rows(database, "SELECT local_day, campaign, outcome, calls, talk_seconds, price_vnd FROM daily_outcomes")
    assert sorted_rows(found) == sorted_rows(expected(daily))

    results = [
        (
            *(name, min(fact.day for fact in some), max(fact.day for fact in some), len(some)),
            sum(fact.outcome == "missing" for fact in some),
            *(share(some), mean(some)),
            *(sum(fact.recovered for fact in some), sum(fact.call.conflict for fact in some)),
        )
        for name, some in by(facts, lambda fact: fact.call.campaign)
    ]
    columns = "campaign, first_day, last_day, calls, missing, answered_share, mean_talk_seconds, recovered, conflicts"
    assert sorted_rows(rows(database, f"SELECT {columns} FROM campaign_results")) == sorted_rows(expected(results))  # noqa: S608


def test_the_figures_say_how_recent_they_are(database: Database, facts: list[Fact]) -> None:
    assert facts
    (before,) = rows(database, "SELECT time_zone, marks_waiting, today, yesterday FROM figures_as_of")
    assert before == ("Asia/Ho_Chi_Minh", "0", f"{a_day_ago(0)}", f"{a_day_ago(1)}")

    Writer(database).record([callback("late", 9, call_status="BUSY")], NOW)

    ((as_of, waiting),) = rows(database, "SELECT as_of, marks_waiting FROM figures_as_of")
    assert (as_of, waiting) == (plain(NOW), "1")


def test_every_view_and_column_says_what_it_holds(database: Database) -> None:
    module = schema.views_module()
    for view in module.views(module.words_of("postgresql", "UTC", 0)):
        with database.snapshot() as connection:
            names = list(connection.execute(text(f"SELECT * FROM {view.name} WHERE 1 = 0")).keys())  # noqa: S608
            assert names == [name for name, _, _ in view.columns]
            if database.is_sqlite:
                sql = str(connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = :n"), {"n": view.name}))
                words = re.findall(r"/\* (.*?) \*/", sql)
            else:
                query = text(
                    "SELECT description FROM pg_description WHERE objoid = CAST(:n AS regclass) ORDER BY objsubid"
                )
                words = list(connection.scalars(query, {"n": view.name}))
        assert words == [view.comment, *(comment for _, comment, _ in view.columns)]


def test_the_days_of_calls_are_found_by_an_index(database: Database) -> None:
    query = "SELECT count(*) FROM call_facts WHERE local_day = '2026-11-23'"
    with database.transaction() as connection:
        if database.is_sqlite:
            plan = str(connection.execute(text(f"EXPLAIN QUERY PLAN {query}")).all())
        else:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            plan = str(connection.execute(text(f"EXPLAIN {query}")).all())
    assert "ix_calls_local_day" in plan


@ON_SQLITE
def test_prices_divide_with_a_rest_on_sqlite(database: Database) -> None:
    Writer(database).record([callback("a", call_status="ANSWERED", price=Decimal(901))], NOW)
    refresh_all(database)
    for view in ("call_facts", "daily_outcomes", "campaign_results"):
        assert rows(database, f"SELECT price_vnd / 2 FROM {view}") == [("450.5",)]  # noqa: S608
