"""The counts of ``status`` that need more than one condition: gaps, wrong tokens, look-ups without an answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, answer, at, callback, lookup
from sql import write
from sqlalchemy import update

from webapp.calls.rule import Registration
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.storage import token_counts
from webapp.storage.claims import Due
from webapp.storage.models import reconcile_runs
from webapp.storage.runs import Run, start_run
from webapp.storage.status import CallbackTimes, NoAnswer, UnregisteredCounts, WrongTokens
from webapp.storage.token_counts import HourCount, TokenUse

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.runs import RunOutcome
    from webapp.storage.status import Status
    from webapp.storage.writer import Writer

HOUR = 3600
DAY = 24 * HOUR
GIVE_UP = timedelta(hours=72)


def status(reader: Reader, *, now: float = 0, grace: float = 600) -> Status:
    return reader.status(Due(placed_until=at(now - grace), due_until=at(now)))


def callbacks_at(writer: Writer, *hours: float) -> None:
    reports = [callback(f"call-{place}", hour * HOUR, call_status="BUSY") for place, hour in enumerate(hours)]
    writer.record(reports, NOW)


@pytest.mark.parametrize(
    ("hours", "gap"),
    [
        ([], 1),
        ([-3], 1),
        ([-0.2, -0.1], 1),
        ([-5, -3, -2.5, -1], 2),
        ([-5, -4.5, -4, -3.5, -3], 1),
        ([-30, -29.9, -6, -5], 23.9),
        ([-8 * 24, -24, -23], 1),
        ([-100, -50], 50),
    ],
)
def test_the_longest_gap_between_callbacks_of_the_last_7_days_is_at_least_an_hour(
    writer: Writer, reader: Reader, hours: list[float], gap: float
) -> None:
    callbacks_at(writer, *hours)
    writer.record([lookup("asked", -4 * HOUR, call_status="BUSY")], NOW)

    found = status(reader).callbacks

    assert found.longest_gap == timedelta(hours=gap)
    assert found.last_at == (at(hours[-1] * HOUR) if hours else None)


@pytest.mark.parametrize(("placed", "since"), [(-3, False), (-1, True), (-0.1, False)])
def test_calls_placed_after_the_last_callback_count_once_their_grace_is_over(
    writer: Writer, reader: Reader, placed: float, *, since: bool
) -> None:
    callbacks_at(writer, -2)
    writer.register([Registration(reference_id="a", placed_at=at(placed * HOUR))], NOW)

    assert status(reader).callbacks == CallbackTimes(at(-2 * HOUR), timedelta(hours=1), placed_since=since)


def test_wrong_tokens_are_counted_by_the_hour_and_a_right_one_after_them_is_seen(
    database: Database, writer: Writer, reader: Reader
) -> None:
    counts = [hour_of(at(-4 * HOUR)), hour_of(at(-60))]
    for _ in range(3):
        write(database, lambda connection: token_counts.add(connection, counts, NOW))

    assert status(reader).wrong_tokens == WrongTokens(3, at(-60), right_since=False, last_day=6)
    callbacks_at(writer, -1 / 30)
    assert status(reader).wrong_tokens == WrongTokens(3, at(-60), right_since=False, last_day=6)
    writer.record([callback("new", -1, call_status="BUSY")], NOW)
    assert status(reader).wrong_tokens == WrongTokens(3, at(-60), right_since=True, last_day=6)
    assert status(reader, now=2 * HOUR).wrong_tokens.count == 0


def test_counts_of_wrong_tokens_are_kept_for_90_days(database: Database, reader: Reader) -> None:
    for seconds in (-91 * DAY, -89 * DAY, 0):
        count = [hour_of(at(seconds))]
        write(database, lambda connection, count=count: token_counts.add(connection, count, NOW))  # type: ignore[misc]

    assert status(reader, now=-80 * DAY).wrong_tokens.count == 1
    assert wrong_tokens_since(database, -100 * DAY) == 2


def test_callbacks_of_the_last_day_are_counted_by_their_token_over_all_processes(
    database: Database, reader: Reader
) -> None:
    processes = [
        [hour_of(at(-30 * HOUR), "gone"), hour_of(at(-3 * HOUR), "abcd")],
        [hour_of(at(-3 * HOUR + 60), "abcd"), hour_of(at(-60), "abcd"), hour_of(at(-120), "wxyz"), hour_of(at(-5))],
        [hour_of(at(-3 * HOUR - 60), "abcd")],
    ]
    for counts in processes:
        write(database, lambda connection, counts=counts: token_counts.add(connection, counts, NOW))  # type: ignore[misc]

    assert status(reader).token_uses == [TokenUse("abcd", 4, at(-60)), TokenUse("wxyz", 1, at(-120))]
    assert status(reader).wrong_tokens.last_day == 1


def hour_of(moment: datetime, token_ending: str = "") -> HourCount:
    """A single request."""
    return HourCount(moment.replace(minute=0, second=0, microsecond=0), 1, moment, token_ending)


def wrong_tokens_since(database: Database, seconds: float) -> int:
    return write(database, lambda connection: token_counts.wrong_since(connection, at(seconds)))[0]


def a_run(
    database: Database,
    started: float,
    *,
    answered: float | None,
    failed: int = 0,
    outcome: RunOutcome | None = "failures",
) -> None:
    run = Run(
        id=parameters.new_id(),
        started_at=at(started),
        finished_at=at(started) if outcome else None,
        host="h",
        outcome=outcome,
    )
    start_run(database, replace(run, failed=failed), lease=timedelta(minutes=1))
    answered_at = None if answered is None else at(answered)
    change = update(reconcile_runs).where(reconcile_runs.c.id == run.id).values(answered_at=answered_at)
    write(database, lambda connection: connection.execute(change))


def test_missing_calls_without_an_answer_are_named_by_code_until_esms_answers_again(
    database: Database, writer: Writer, reader: Reader
) -> None:
    writer.register([Registration(reference_id=name, placed_at=at(-HOUR)) for name in "abcd"], at(-HOUR))
    a_run(database, -1800, answered=-1700)
    failed = [LookupAnswer("a", "timeout"), LookupAnswer("b", "http-503"), LookupAnswer("c", "timeout")]
    writer.conclude([*failed, LookupAnswer("d", "104")], at(-600), give_up=GIVE_UP)

    assert status(reader).no_answer == NoAnswer({"http-503": 1, "timeout": 2}, at(-1700))
    a_run(database, -60, answered=None)
    assert status(reader).no_answer.codes, "a run in which nothing was due clears nothing"
    writer.conclude([answer(lookup("a", -30, call_status="BUSY"))], at(-30), give_up=GIVE_UP)
    assert status(reader).no_answer == NoAnswer({"http-503": 1, "timeout": 1}, at(-1700))
    a_run(database, -20, answered=-10)
    assert status(reader).no_answer == NoAnswer({}, at(-10))


@pytest.mark.parametrize(("failed", "outcome"), [(1, "failures"), (0, "died")])
def test_what_changes_a_call_after_an_answer_of_esms_is_no_look_up_without_one(
    database: Database, writer: Writer, reader: Reader, failed: int, outcome: RunOutcome
) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(-HOUR))], at(-HOUR))
    writer.conclude([LookupAnswer("a", "tls")], at(-600), give_up=GIVE_UP)
    a_run(database, -599, answered=None, failed=failed, outcome=outcome)
    a_run(database, -300, answered=-300, outcome="done")

    writer.record([callback("a", -60, send_status=7)], at(-60))
    assert status(reader).no_answer.codes == {}
    a_run(database, -50, answered=None, outcome=None)
    assert status(reader).no_answer.codes == {"tls": 1}, "a run under way counts its failures now and then only"


def test_values_that_could_not_be_read_are_counted_by_parameter_for_a_day(writer: Writer, reader: Reader) -> None:
    writer.record(
        [
            callback("a", -60, unread="Price,Ivr", call_status="BUSY"),
            callback("b", -60, unread="Price", call_status="BUSY"),
            callback("c", -25 * HOUR, unread="CID", call_status="BUSY"),
            callback("d", -60, call_status="BUSY"),
        ],
        NOW,
    )

    assert status(reader).unread_last_day == {"Price": 2, "Ivr": 1}


def test_two_prices_need_a_person_until_one_has_seen_to_them(writer: Writer, reader: Reader) -> None:
    said: dict[str, Any] = {"call_status": "ANSWERED", "send_status": 5}
    writer.record([callback("a", 1, price=450, **said), callback("a", 2, price=99999, **said)], NOW)

    assert (status(reader).price_conflicts, status(reader).price_conflict_calls) == (1, ["a"])
    assert writer.dismiss(["a"], NOW) == {"a"}
    assert (status(reader).price_conflicts, status(reader).price_conflict_calls) == (0, [])
    writer.record([callback("a", 3, price=450, **said)], NOW)
    assert status(reader).price_conflicts == 0, "a price that was said before is nothing new"
    writer.record([callback("a", 4, price=1, **said)], NOW)
    assert status(reader).price_conflicts == 1


def test_new_calls_that_were_never_registered_are_counted_by_the_day(writer: Writer, reader: Reader) -> None:
    day = 86400
    for name, seconds in (("older", -3 * day), ("yesterday", -1.5 * day), ("today", -3), ("settled", -2)):
        said = {"call_status": "ANSWERED"} if name == "settled" else {"send_status": 7}
        writer.record([callback(name, seconds, **said)], at(seconds))
    writer.register([Registration(reference_id="mine", placed_at=NOW)], at(-1))
    writer.record([callback("mine", -1, send_status=7)], at(-1))

    status = reader.status(Due(placed_until=NOW, due_until=NOW))

    assert status.unregistered == UnregisteredCounts(4, missing=3, last_day=2, day_before=1, registered_last_day=1)
