"""Which calls a run claims, in which order, and at what cost; the test sets the times."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, answer, at, callback, change_by_hand, lookup, stored_call
from reconciling import rows
from sqlalchemy import event

from webapp.calls.rule import Registration
from webapp.esms.lookup import LookupAnswer
from webapp.storage import claims
from webapp.storage.claims import Due
from webapp.storage.filters import CallFilter
from webapp.storage.models import calls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer
    from webapp.support.settings import Verify

MINUTE, HOUR, DAY = 60, 3600, 86400
GIVE_UP = timedelta(hours=72)
SETTLED: tuple[Verify, ...] = ("off", "conflicts", "unregistered", "all")


def due_at(
    seconds: float, *, verify: Verify = "conflicts", within: CallFilter | None = None, grace: float = 600
) -> Due:
    now = at(seconds)
    return Due(
        placed_until=at(seconds - grace),
        due_until=now,
        verify=verify,
        verify_since=now - GIVE_UP,
        within=within or CallFilter(),
    )


def claim(database: Database, seconds: float, limit: int = 100, **which: Any) -> list[str]:
    """The calls that a run takes then, for a minute."""
    until = at(seconds + MINUTE)
    return [
        call.reference_id
        for call in claims.claim(database, due_at(seconds, **which), limit, now=at(seconds), until=until)
    ]


def register(writer: Writer, placed: dict[str, float], **words: Any) -> None:
    placed_calls = [Registration(reference_id=name, placed_at=at(seconds), **words) for name, seconds in placed.items()]
    writer.register(placed_calls, NOW)


def fail(writer: Writer, seconds: float, names: Sequence[str], *, verifying: Sequence[str] = ()) -> None:
    answers = [LookupAnswer(name, "timeout") for name in names]
    writer.conclude(answers, at(seconds), give_up=GIVE_UP, verifying=verifying)


# The order


def test_hundreds_of_calls_that_fail_every_time_delay_no_other(writer: Writer, database: Database) -> None:
    broken = [f"broken-{number:03}" for number in range(300)]
    register(writer, dict.fromkeys(broken, -DAY))
    fail(writer, -DAY, broken)
    register(writer, {"asked-once": -DAY})
    fail(writer, -HOUR, ["asked-once"])

    claims: list[list[str]] = []
    for number in range(11):
        register(writer, {f"new-{number}": number - HOUR})
        claims.append(claim(database, number, 30))
        fail(writer, number, [name for name in claims[-1] if not name.startswith("new")])

    assert [names[0] for names in claims] == [f"new-{number}" for number in range(11)]
    assert "asked-once" in claims[10]
    assert sum(name in names for names in claims for name in broken) == 300


def test_a_conflict_that_was_never_asked_about_goes_before_all_that_were(writer: Writer, database: Database) -> None:
    register(writer, {"asked": -DAY, "new": -HOUR, "torn": -MINUTE})
    fail(writer, -DAY, ["asked"])
    writer.record([callback("torn", 0, call_status="BUSY"), callback("torn", 1, call_status="ANSWERED")], NOW)

    assert claim(database, 301) == ["new", "torn", "asked"]


def receive_progress(writer: Writer, names: Sequence[str]) -> None:
    """Progress of calls that nobody has registered."""
    writer.record([callback(name, -DAY, send_status=2) for name in names], NOW)


def test_registered_calls_go_before_those_known_from_callbacks_alone(
    writer: Writer, reader: Reader, database: Database
) -> None:
    receive_progress(writer, ["reported-asked", "reported"])
    register(writer, {"asked": -HOUR, "new": -HOUR})
    fail(writer, -HOUR, ["reported-asked", "asked"])

    expected = ["new", "asked", "reported", "reported-asked"]
    assert reader.due(due_at(0), 10) == (4, expected)
    assert [claim(database, 0, 1) for _ in range(5)] == [*([name] for name in expected), []]


@pytest.mark.parametrize(
    ("limit", "reserved", "registered", "others"),
    [(10, 1, 9, 1), (10, 0, 10, 0), (30, 3, 20, 10), (60, 3, 20, 20), (2, 9, 0, 2)],
)
def test_some_claims_are_for_calls_known_from_callbacks_alone(
    writer: Writer, database: Database, limit: int, reserved: int, registered: int, others: int
) -> None:
    """And all that the registered ones leave."""
    receive_progress(writer, [f"reported-{number}" for number in range(20)])
    register(writer, {f"placed-{number}": -HOUR for number in range(20)})

    due, until = due_at(0), at(MINUTE)
    claimed = claims.claim(database, due, limit, now=at(0), until=until, reserved=reserved)

    assert [call.registered for call in claimed] == [True] * registered + [False] * others


def test_where_none_is_registered_no_claim_is_kept_free(writer: Writer, database: Database) -> None:
    receive_progress(writer, ["a", "b"])
    assert len(claims.claim(database, due_at(0), 2, now=at(0), until=at(MINUTE), reserved=1)) == 2
    register(writer, {"c": -HOUR, "d": -HOUR})
    assert len(claims.claim(database, due_at(0), 2, now=at(0), until=at(MINUTE), reserved=1)) == 2


def test_a_call_that_is_to_be_placed_yet_waits_for_its_grace(writer: Writer, database: Database) -> None:
    register(writer, {"future": HOUR})

    assert claim(database, HOUR + 599) == []
    assert claim(database, HOUR + 600) == ["future"]


def test_a_call_inserted_by_plain_sql_waits_for_its_grace_and_goes_before_those_asked_about(
    writer: Writer, database: Database
) -> None:
    change_by_hand(database, "INSERT INTO calls (reference_id) VALUES ('by-hand')")
    placed = (stored_call(database, "by-hand").placed_at - NOW).total_seconds()
    receive_progress(writer, ["asked"])
    fail(writer, placed - DAY, ["asked"])

    assert claim(database, placed + 599) == ["asked"]
    assert claim(database, placed + 700) == ["by-hand", "asked"]


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        (CallFilter(), ["a1", "a2", "b1", "b2"]),
        (CallFilter(campaign="a"), ["a1", "a2"]),
        (CallFilter(campaign="A"), []),
        (CallFilter(since=at(-HOUR)), ["a2", "b2"]),
        (CallFilter(until=at(-HOUR)), ["a1", "b1"]),
        (CallFilter(since=at(-HOUR), campaign="b"), ["b2"]),
        (CallFilter(reference_ids=("b1", "a2", "unknown")), ["a2", "b1"]),
        (CallFilter(reference_ids=("b1",), campaign="a"), []),
    ],
)
def test_a_run_may_be_narrowed_to_some_calls(
    writer: Writer, database: Database, reader: Reader, within: CallFilter, expected: list[str]
) -> None:
    register(writer, {"a1": -2 * HOUR, "a2": -HOUR}, campaign="a")
    register(writer, {"b1": -2 * HOUR, "b2": -HOUR}, campaign="b")
    due = due_at(0, within=within)

    assert reader.due(due, 10)[0] == len(expected)
    assert reader.any_due(due) == bool(expected)
    assert sorted(claim(database, 0, within=within)) == expected


# Calls that are settled, to be confirmed


def settle_some(writer: Writer) -> None:
    """One call of each kind that may have to be confirmed, and one that is missing."""
    register(writer, {"missing": -HOUR, "registered": -2 * HOUR})
    for name, seconds in {"unregistered": -3 * HOUR, "registered": -2 * HOUR, "too-old": -4 * DAY}.items():
        writer.record([callback(name, seconds, call_status="BUSY")], at(seconds))
    writer.record([lookup("confirmed", -HOUR, call_status="BUSY")], NOW)
    reports = [callback("torn", -HOUR, call_status="BUSY"), callback("torn", -HOUR + 1, call_status="ANSWERED")]
    writer.record(reports, at(-HOUR))


@pytest.mark.parametrize(
    ("verify", "expected"),
    [
        ("off", ["missing"]),
        ("conflicts", ["missing", "torn"]),
        ("unregistered", ["missing", "torn", "unregistered"]),
        ("all", ["missing", "torn", "unregistered", "registered"]),
    ],
)
def test_which_settled_calls_are_asked_about_is_a_setting_and_missing_ones_come_first(
    writer: Writer, database: Database, reader: Reader, verify: Verify, expected: list[str]
) -> None:
    settle_some(writer)

    assert reader.due(due_at(0, verify=verify), 100) == (len(expected), expected)
    assert [name for _ in range(6) for name in claim(database, 0, limit=1, verify=verify)] == expected


def test_a_call_that_failed_to_be_confirmed_is_due_again_when_its_time_comes_and_not_before(
    writer: Writer, database: Database
) -> None:
    writer.record([callback("a", -HOUR, call_status="BUSY")], at(-HOUR))
    assert claim(database, 0, verify="all") == ["a"]
    fail(writer, 0, ["a"], verifying=["a"])

    planned = stored_call(database, "a").next_lookup_at
    assert planned is not None
    seconds = (planned - NOW).total_seconds()
    assert 270 <= seconds <= 330
    assert claim(database, seconds - 1, verify="all") == []
    assert claim(database, seconds, verify="conflicts") == []
    assert claim(database, seconds, verify="all") == ["a"]


@pytest.mark.parametrize("status", ["BUSY", "ANSWERED"])
def test_a_call_is_asked_about_until_esms_decides(writer: Writer, database: Database, status: str) -> None:
    writer.record([callback("a", -HOUR, call_status="BUSY")], at(-HOUR))
    fail(writer, 0, ["a"], verifying=["a"])
    undecided = LookupAnswer("a", "105")
    writer.conclude([undecided], at(HOUR), give_up=GIVE_UP, verifying=["a"])
    assert claim(database, 2 * HOUR, verify="all") == ["a"]

    decided = answer(lookup("a", 2 * HOUR, call_status=status))
    writer.conclude([decided], at(2 * HOUR), give_up=GIVE_UP, verifying=["a"])

    call = stored_call(database, "a")
    assert (call.call_status, call.next_lookup_at, call.lookup_count, call.conflict) == (status, None, 3, False)
    assert call.confirmed_at == at(2 * HOUR)
    assert claim(database, 100 * HOUR, verify="all") == []


def test_a_call_that_esms_never_confirms_is_not_asked_about_for_ever_and_stays_settled(
    writer: Writer, reader: Reader, database: Database
) -> None:
    writer.record([callback("a", -71 * HOUR, call_status="BUSY")], at(-71 * HOUR))
    fail(writer, 0, ["a"], verifying=["a"])

    assert claim(database, HOUR + 1, verify="all") == []
    assert reader.due(due_at(HOUR + 1, verify="all"), 0) == (0, [])

    writer.conclude([LookupAnswer("a", "105")], at(2 * HOUR), give_up=GIVE_UP, verifying=["a"])
    call = stored_call(database, "a")
    assert (call.settled, call.gave_up_at, call.next_lookup_at) == (True, None, None)


def test_a_callback_that_settles_a_call_which_was_looked_up_before_lets_it_be_confirmed(
    writer: Writer, database: Database
) -> None:
    """It may have been asked about in vain many times."""
    register(writer, {"a": -HOUR})
    fail(writer, -HOUR + 601, ["a"])
    writer.record([callback("a", 0, call_status="BUSY")], NOW)

    assert claim(database, 0, verify="all") == ["a"]


def test_calls_are_confirmed_in_the_order_of_their_placing_whatever_was_tried_before(
    writer: Writer, database: Database
) -> None:
    """A run narrows its claims by the placed_at of those before: none may be skipped."""
    names = [f"call-{number}" for number in range(6)]
    for number, name in enumerate(names):
        writer.record([callback(name, number - HOUR, call_status="BUSY")], NOW)
    fail(writer, 0, names[:2], verifying=names[:2])

    assert [claim(database, HOUR, limit=2, verify="all") for _ in range(4)] == [names[:2], names[2:4], names[4:], []]


# Calls that were given up


def test_calls_that_were_given_up_can_be_reopened_and_are_due_at_once(
    writer: Writer, database: Database, reader: Reader
) -> None:
    for campaign in ("a", "b"):
        register(writer, {f"{campaign}{number}": -100 * HOUR for number in range(3)}, campaign=campaign)
    names = [call["reference_id"] for call in rows(database, calls)]
    fail(writer, -HOUR, names)
    assert {call["gave_up_at"] for call in rows(database, calls)} == {None}  # no answer: asked again
    writer.conclude([LookupAnswer(name, "105") for name in names[:-1]], NOW, give_up=GIVE_UP)
    assert reader.given_up(CallFilter()) == 5
    assert claim(database, DAY) == names[-1:]

    within = CallFilter(campaign="a")
    assert reader.given_up(within) == 3
    assert writer.reopen(within, at(DAY + HOUR)) == 3
    assert writer.reopen(within, at(DAY + HOUR)) == 0
    assert reader.given_up(CallFilter()) == 2
    call = stored_call(database, "a0")
    assert (call.gave_up_at, call.next_lookup_at, call.lookup_count) == (None, at(DAY + HOUR), 2)
    assert sorted(claim(database, DAY + HOUR)) == ["a0", "a1", "a2", names[-1]]

    writer.conclude([LookupAnswer("a0", "105")], at(DAY + HOUR), give_up=GIVE_UP)
    fail(writer, DAY + HOUR, ["a1"])
    assert stored_call(database, "a0").gave_up_at == at(DAY + HOUR)
    again = stored_call(database, "a1")
    assert again.gave_up_at is None
    assert again.next_lookup_at is not None
    assert 270 <= (again.next_lookup_at - at(DAY + HOUR)).total_seconds() <= 330


def test_more_calls_than_one_transaction_takes_are_reopened(writer: Writer, reader: Reader) -> None:
    names = [f"call-{number}" for number in range(1100)]
    register(writer, dict.fromkeys(names, -100 * HOUR))
    writer.conclude([LookupAnswer(name, "105") for name in names], NOW, give_up=GIVE_UP)

    assert writer.reopen(CallFilter(reference_ids=tuple(names[:1050])), at(1)) == 1050
    assert reader.given_up(CallFilter()) == 50


# What it costs


@contextmanager
def plans_of(database: Database) -> Iterator[list[str]]:
    """The plans of all statements on calls that are run in the block."""
    plans: list[str] = []
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "

    def look(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "calls" in statement and not statement.startswith("EXPLAIN"):
            plan = cursor.connection.cursor().execute(explain + statement, parameters)
            plans.append("\n".join(str(row[-1]) for row in plan.fetchall()))

    event.listen(database._write_engine, "before_cursor_execute", look)  # noqa: SLF001 - no other way to its statements
    try:
        yield plans
    finally:
        event.remove(database._write_engine, "before_cursor_execute", look)  # noqa: SLF001


@pytest.mark.parametrize("registered", [True, False])
def test_claiming_reads_the_indexes_of_what_is_due_and_never_all_calls(
    database: Database,
    registered: bool,  # noqa: FBT001
) -> None:
    """However many calls are settled."""
    numbers = (
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 30000)"
        if database.is_sqlite
        else "WITH numbers AS (SELECT generate_series(1, 30000) AS n)"
    )
    moment = f"{'' if database.is_sqlite else 'TIMESTAMPTZ '}'2026-11-20T10:00:00.000000Z'"
    change_by_hand(
        database,
        "INSERT INTO calls (reference_id, placed_at, settled_at, settled_by, lookup_count, next_lookup_at, conflict, "  # noqa: S608
        "registered_at) "
        f"{numbers} SELECT 'call-' || n, {moment}, CASE WHEN n % 50 > 0 OR n % 500 = 0 THEN {moment} END, "
        "CASE WHEN n % 50 > 0 OR n % 500 = 0 THEN 'callback' END, CASE WHEN n % 100 = 0 THEN 3 ELSE 0 END, "
        f"CASE WHEN n % 100 = 0 THEN {moment} END, n % 500 = 0, {moment if registered else 'NULL'} FROM numbers",
    )
    change_by_hand(database, "ANALYZE calls")

    with plans_of(database) as plans:
        claimed = claims.claim(database, due_at(0), 700, now=NOW, until=at(MINUTE))

    assert len(claimed) == 600
    half = "" if registered else "_unregistered"
    for name in (f"ix_calls_unasked{half}", f"ix_calls_missing{half}", "ix_calls_conflict"):
        assert any(re.search(rf"\b{name}\b", plan) for plan in plans), plans
    for plan in plans:
        assert "Seq Scan on calls" not in plan, plan
        assert "SCAN calls\n" not in f"{plan}\n", plan
