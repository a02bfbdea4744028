"""The command report: the same figures as the views, equal to a recount, for people and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from commands import ON_SQLITE, SET, done, run
from histories import put_history
from makers import NOW, callback
from recount import Fact, class_of, facts_of, refresh_all

from webapp.calls.facts import DELAY_EDGES, TALK_EDGES
from webapp.calls.rule import Registration
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.database import Database

KEYS: dict[str, Callable[[Fact], Any]] = {
    "hour": lambda fact: fact.at.hour,
    "weekday": lambda fact: fact.at.isoweekday(),
    "day": lambda fact: f"{fact.day}",
    "campaign": lambda fact: fact.call.campaign,
    "key": lambda fact: fact.labels.get("key"),
}


@pytest.fixture
def facts(database: Database) -> list[Fact]:
    put_history(database, 11, 60)
    refresh_all(database)
    return facts_of(database)


def figures(facts: list[Fact]) -> dict[str, Any]:
    sums: defaultdict[str, int] = defaultdict(int)
    for fact in facts:
        for name, number in fact.measures.items():
            sums[name] += number
    price = sums.pop("price", 0) * 10000 + sums.pop("price_fraction", 0)
    return {
        **sums,
        "answered_share": sums["answered"] / sums["with_outcome"] if sums["with_outcome"] else None,
        "mean_talk_seconds": sums["answered_seconds"] / sums["timed"] if sums["timed"] else None,
        "price_vnd": f"{price // 10000}.{price % 10000:04}",
        "delivered": sum(fact.outcome == "delivered" for fact in facts),
        "answered_call_vnd": answered_call_vnd(facts),
    }


def answered_call_vnd(facts: list[Fact]) -> str | None:
    answered = sum(fact.answered for fact in facts)
    prices = (fact.call.price or Decimal(0) for fact in facts if fact.outcome != "delivered")
    return f"{sum(prices, Decimal(0)) / answered:.4f}" if answered else None


def percentiles(seconds: list[int | None], edges: tuple[int, ...]) -> dict[str, int | None]:
    known = sorted(one for one in seconds if one is not None)
    return {
        f"p{percent}": class_of(known[-(-len(known) * percent // 100) - 1], edges) if known else None
        for percent in (50, 90, 95, 99)
    }


@SET
def test_the_report_equals_a_recount(facts: list[Fact]) -> None:
    printed = json.loads(done("report", "--json"))

    assert {name: printed[name] for name in figures(facts)} == figures(facts)
    assert printed["outcomes"] == {
        outcome: sum(fact.outcome == outcome for fact in facts) for outcome in {fact.outcome for fact in facts}
    }
    assert printed["talk_seconds"] == percentiles([fact.talk_seconds for fact in facts], TALK_EDGES)
    assert printed["callback_seconds"] == percentiles([fact.callback_seconds for fact in facts], DELAY_EDGES)
    assert printed["time_zone"] == "Asia/Ho_Chi_Minh"


@SET
def test_each_group_equals_a_recount(facts: list[Fact]) -> None:
    for by, key in KEYS.items():
        counted = [fact for fact in facts if by != "key" or fact.answered]
        expected = {name: figures([fact for fact in counted if key(fact) == name]) for name in map(key, counted)}
        if by in {"hour", "key"}:
            for one in expected.values():
                del one["delivered"], one["answered_call_vnd"]

        groups = json.loads(done("report", "--by", by, "--json"))["groups"]

        assert {group.pop(by): group for group in groups} == expected
        assert len(groups) == len(expected)


@SET
def test_days_and_a_campaign_are_chosen(facts: list[Fact]) -> None:
    day = date(2026, 11, 23)
    some = [fact for fact in facts if fact.day == day]
    assert some
    assert len(some) < len(facts)

    printed = json.loads(done("report", "--since", "2026-11-23", "--until", "24/11/2026", "--json"))
    assert printed["calls"] == len(some)

    tet = [fact for fact in facts if fact.call.campaign == "tet"]
    printed = json.loads(done("report", "--campaign", "tet", "--json"))
    assert {name: printed[name] for name in figures(tet)} == figures(tet)


@ON_SQLITE
@SET
def test_people_read_the_same_figures(database: Database) -> None:
    writer = Writer(database)
    writer.register([Registration(reference_id=name, campaign="tết", placed_at=NOW) for name in "abc"], NOW)
    writer.record(
        [callback("a", 4, call_status="ANSWERED", call_duration=42, ivr="1"), callback("b", call_status="BUSY")], NOW
    )
    refresh_all(database)

    lines = [" ".join(line.split()) for line in done("report").splitlines()]
    for line in (
        "calls 3",
        "missing 1",
        "answered share 50.0% (1 of 2 with an outcome)",
        "talk time, mean 42.0 s",
        "talk time, median ≈ 45 s",
        "cost 0 ₫ (3 calls without a price)",
        "callbacks, 95% within ≈ 5 s",
    ):
        assert line in lines
    assert lines[-1].startswith("Figures as of ")
    assert "Monday" in done("report", "--by", "weekday")
    assert "17:00" in done("report", "--by", "hour")
    assert "tết" in done("report", "--by", "campaign")
    assert "2026-11-23" in done("report", "--by", "day")


@ON_SQLITE
@SET
def test_voice_otp_has_a_delivered_share_and_no_answered_one(database: Database) -> None:
    writer = Writer(database)
    writer.register([Registration(reference_id=name, campaign="OTP", placed_at=NOW) for name in "abcd"], NOW)
    writer.record([*(callback(name, 2, sent_result=1) for name in "abc"), callback("d", 2, sent_result=0)], NOW)
    writer.register([Registration(reference_id="e", campaign="tết", placed_at=NOW)], NOW)
    writer.record([callback("e", call_status="BUSY")], NOW)
    refresh_all(database)

    of_otp, of_voice = (
        [" ".join(line.split()) for line in done("report", "--campaign", campaign).splitlines()]
        for campaign in ("OTP", "tết")
    )
    by_campaign = [line.split() for line in done("report", "--by", "campaign").splitlines()]

    assert "delivered share 75.0% (3 of 4 delivered or failed)" in of_otp
    assert not [line for line in of_otp if line.startswith("answered share")]
    assert "answered share 0.0% (0 of 1 with an outcome)" in of_voice
    assert [line[:6] for line in by_campaign if line[:1] in (["OTP"], ["tết"])] == [
        ["OTP", "4", "1", "0", "-", "3"],
        ["tết", "1", "1", "0", "0.0%", "0"],
    ]


@ON_SQLITE
@SET
def test_tables_fit_a_window_of_100_characters_and_wide_ones_have_every_figure(database: Database) -> None:
    writer = Writer(database)
    names = [f"{number}" for number in range(1200)]
    campaign = "Nhắc thanh toán cước"
    writer.register([Registration(reference_id=name, campaign=campaign, placed_at=NOW) for name in names], NOW)
    price = Decimal("1450.5")
    writer.record(
        [callback(name, call_status="ANSWERED", call_duration=42, price=price, ivr="1") for name in names], NOW
    )
    writer.record(
        [callback("of an OTP", sent_result=1), callback("0", 1, call_status="ANSWERED", call_duration=43)], NOW
    )
    refresh_all(database)

    narrow = {by: done("report", "--by", by).splitlines() for by in KEYS}
    wide = done("report", "--by", "campaign", "--wide").splitlines()

    for by, lines in narrow.items():
        assert max(len(line.rstrip()) for line in lines) <= (100 if by == "campaign" else 82), by
    of_all = [next(line.split() for line in lines if line.startswith(" all ")) for lines in (narrow["campaign"], wide)]
    short = ["all", "1,201", "1,200", "1,200", "100.0%", "1", "42.0", "1,740,600", "1,450", "1", "0"]
    assert of_all == [short, [*short, "0", "1", "1"]]
    (of_key,) = [line.split() for line in narrow["key"] if line.startswith(" 1 ")]
    assert of_key == ["1", "1,200", "100.0%", "42.0", "1,740,600", "0", "0"]


def test_wide_is_for_tables() -> None:
    assert "--wide adds columns to a table: give --by as well." in run("report", "--wide").stderr


@ON_SQLITE
@SET
def test_figures_that_wait_are_said_to(database: Database) -> None:
    assert "There are no figures of such calls." in done("report")
    Writer(database).record([callback("a", call_status="BUSY")], NOW)

    printed = done("report", "--by", "day")

    assert "There are no figures of such calls." in printed
    assert "later changes are not in them yet (marks that wait: 1)" in printed


@ON_SQLITE
@SET
@pytest.mark.parametrize("given", ["2026-11-23T10:00", "2026-11-23T00:00Z"])
def test_a_time_within_a_day_is_refused(database: Database, given: str) -> None:  # noqa: ARG001 - it is made
    result = run("report", "--since", given)

    assert result.exit_code == 2
    words = " ".join(result.stderr.split())
    assert "is not the beginning of a day in Asia/Ho_Chi_Minh, and figures are of whole days: give a date." in words
