"""What is read: every call once, in its order, as it is stored, and counted right."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, answer, at, callback, change_by_hand, lookup
from sqlalchemy import Engine, event

from webapp.calls.rule import Registration
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.storage.claims import Due
from webapp.storage.filters import CallFilter
from webapp.storage.models import calls, status_reports
from webapp.storage.reader import Position
from webapp.storage.rejected import Rejected
from webapp.storage.runs import Run, start_run
from webapp.storage.status import CallbackTimes, LookupShare, NoAnswer, Status, WrongTokens
from webapp.storage.types import iso

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

HOUR = 3600
GIVE_UP = timedelta(hours=72)


def place(writer: Writer, placed: dict[str, float]) -> None:
    """Register calls, each placed these seconds after NOW."""
    writer.register([Registration(reference_id=name, placed_at=at(second)) for name, second in placed.items()], NOW)


def names(found: Iterable[dict[str, Any]]) -> list[str]:
    return [call["reference_id"] for call in found]


def walk(reader: Reader, wanted: CallFilter, limit: int) -> list[list[str]]:
    """All pages, from the first to the one that says it is the last."""
    pages, position = [], None
    while True:
        page, position = reader.page(wanted, position, limit)
        pages.append(names(page))
        if position is None:
            return pages


# One call


def test_a_call_is_shown_flat_with_its_reports_in_their_order(writer: Writer, reader: Reader) -> None:
    late, early = callback("a", 2, call_status="BUSY", price=Decimal("450.0000")), callback("a", 1, send_status=7)
    writer.record([late], at(3))
    writer.record([early], at(4))
    writer.register([Registration(reference_id="a", phone="849")], at(5))

    call = reader.call("a")

    assert call is not None
    reports = call.pop("reports")
    assert list(call) == calls.c.keys()
    assert (call["price"], call["placed_at"], call["conflict"]) == ("450.0000", "2026-11-23T10:00:01.000000Z", False)
    assert (call["registered_fields"], call["confirmed_fields"], call["updated_at"]) == ("phone", None, iso(at(5)))
    assert [report["id"] for report in reports] == [str(early.id), str(late.id)]
    assert [report["effect"] for report in reports] == ["enriched", "settled"]
    assert list(reports[0]) == status_reports.c.keys()
    assert reports[0]["payload"] == {"ReferenceId": "a"}
    json.dumps([call, reports])


def test_an_unknown_call_is_none(reader: Reader) -> None:
    assert reader.call("a") is None


def test_a_call_without_reports_has_none(writer: Writer, reader: Reader) -> None:
    place(writer, {"a": 0})

    assert (reader.call("a") or {})["reports"] == []


# Pages


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
def test_pages_have_every_call_once_and_the_newest_placed_first(writer: Writer, reader: Reader, limit: int) -> None:
    place(writer, {"a": 3, "b": 1, "c": 2, "d": 2, "D": 2, "e": 0.000001})
    expected = ["a", "d", "c", "D", "b", "e"]

    assert walk(reader, CallFilter(), limit) == [expected[i : i + limit] for i in range(0, len(expected), limit)]


def test_without_calls_there_is_one_empty_page(reader: Reader) -> None:
    assert walk(reader, CallFilter(), 1) == [[]]


def test_a_page_that_ends_with_the_last_call_says_that_none_follows(writer: Writer, reader: Reader) -> None:
    place(writer, {"a": 1, "b": 2})

    assert reader.page(CallFilter(), None, 2)[1] is None
    assert reader.page(CallFilter(), None, 1)[1] == Position(at(2), "b")


def test_calls_that_arrive_meanwhile_neither_repeat_nor_hide_one(writer: Writer, reader: Reader) -> None:
    place(writer, {f"call-{number:02}": number for number in range(20)})
    seen, position = [], None
    for number in range(10):
        page, position = reader.page(CallFilter(), position, 2)
        seen += names(page)
        writer.record([callback(f"new-{number}", 100 + number, call_status="BUSY")], NOW)
        place(writer, {f"same-{number}": 19})
        writer.record([callback(f"call-{number:02}", 200, call_status="BUSY")], NOW)

    assert position is None
    assert seen == [f"call-{number:02}" for number in reversed(range(20))]


def a_little_of_everything(writer: Writer) -> None:
    place(writer, {"missing": 0, "asked": 10, "given-up": -100 * HOUR, "answered": 20})
    writer.register([Registration(reference_id="busy", campaign="tet", placed_at=at(30))], NOW)
    writer.record(
        [
            callback("answered", 21, call_status="ANSWERED", ivr="1"),
            callback("busy", 31, call_status="BUSY", ivr="007"),
            callback("conflict", 40, call_status="BUSY"),
            callback("conflict", 41, call_status="ANSWERED"),
        ],
        at(41),
    )
    answers = [
        LookupAnswer("asked", "104"),
        LookupAnswer("given-up", "104"),
        answer(lookup("looked-up", 50, call_status="BUSY")),
    ]
    writer.conclude(answers, at(50), give_up=GIVE_UP)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (CallFilter(), ["looked-up", "conflict", "busy", "answered", "asked", "missing", "given-up"]),
        (CallFilter(status="BUSY"), ["looked-up", "busy"]),
        (CallFilter(status="busy"), []),
        (CallFilter(ivr="007"), ["busy"]),
        (CallFilter(ivr="7"), []),
        (CallFilter(campaign="tet"), ["busy"]),
        (CallFilter(since=at(30)), ["looked-up", "conflict", "busy"]),
        (CallFilter(until=at(30)), ["answered", "asked", "missing", "given-up"]),
        (CallFilter(since=at(10), until=at(30)), ["answered", "asked"]),
        (CallFilter(since=at(10.000001), until=at(20)), []),
        (CallFilter(missing=True), ["asked", "missing"]),
        (CallFilter(missing=False), ["looked-up", "conflict", "busy", "answered", "given-up"]),
        (CallFilter(conflict=True), ["conflict"]),
        (CallFilter(conflict=False), ["looked-up", "busy", "answered", "asked", "missing", "given-up"]),
        (CallFilter(status="BUSY", ivr="007", campaign="tet", since=NOW, missing=False, conflict=False), ["busy"]),
    ],
    ids=repr,
)
def test_a_filter_leaves_the_calls_that_are_wanted(
    writer: Writer, reader: Reader, wanted: CallFilter, expected: list[str]
) -> None:
    a_little_of_everything(writer)

    assert walk(reader, wanted, 100) == [expected]
    assert list(chain(*walk(reader, wanted, 1))) == expected


# Exports


def test_an_export_has_the_calls_of_a_time_oldest_first(writer: Writer, reader: Reader) -> None:
    place(writer, {"c": 30, "a": 10, "b": 20, "B": 20})

    assert names(reader.export()) == ["a", "B", "b", "c"]
    assert names(reader.export(CallFilter(since=at(20)))) == ["B", "b", "c"]
    assert names(reader.export(CallFilter(since=at(10), until=at(20)))) == ["a"]
    assert [
        reader.count(CallFilter(since=since, until=until))
        for since, until in ((None, None), (at(20), None), (at(10), at(20)), (at(31), None))
    ] == [4, 3, 1, 0]


def test_an_export_shows_a_call_as_the_api_does(writer: Writer, reader: Reader) -> None:
    a_little_of_everything(writer)
    exported = {call["reference_id"]: call for call in reader.export()}

    for name, call in exported.items():
        shown = reader.call(name)
        assert shown is not None
        del shown["reports"]
        assert call == shown


def test_an_export_is_of_one_moment_however_long_it_takes(writer: Writer, reader: Reader) -> None:
    place(writer, {f"call-{number:04}": number for number in range(1100)})
    export = reader.export()
    first = next(export)
    writer.record([callback("call-1099", 1, call_status="BUSY")], NOW)
    place(writer, {"new": 9999})
    rest = list(export)

    assert first["reference_id"] == "call-0000"
    assert names(rest) == [f"call-{number:04}" for number in range(1, 1100)]
    assert rest[-1]["call_status"] is None


def test_an_export_is_fetched_in_portions_through_a_cursor_of_the_server(
    writer: Writer, reader: Reader, database: Database
) -> None:
    place(writer, {"a": 1})
    cursors: list[tuple[str, int]] = []

    def see(_connection: object, cursor: object, *rest: Any) -> None:
        context = rest[2]
        cursors.append((type(cursor).__name__, context.execution_options.get("yield_per")))

    event.listen(Engine, "after_cursor_execute", see)
    try:
        assert names(reader.export()) == ["a"]
    finally:
        event.remove(Engine, "after_cursor_execute", see)
    # SQLite's own cursor fetches nothing before it is asked to.
    assert cursors[-1] == ("Cursor" if database.is_sqlite else "ServerCursor", 1000)


def test_an_export_that_is_dropped_half_way_gives_its_connection_back(writer: Writer, reader: Reader) -> None:
    place(writer, {f"call-{number}": number for number in range(3)})

    for _ in range(30):
        next(reader.export())

    assert reader.count() == 3


# Counts


def test_the_status_counts_every_call_where_it_belongs(writer: Writer, database: Database, reader: Reader) -> None:
    a_little_of_everything(writer)
    writer.reject(a_rejected(1, "one"))
    again = a_rejected(2, "two")
    writer.reject(again)
    writer.replay_rejected(callback("busy", 32, id=again.id, call_status="BUSY"), NOW)
    run = Run(id=parameters.new_id(), started_at=at(5), host="here", outcome="done", checked=3)
    start_run(
        database, replace(run, id=parameters.new_id(), started_at=at(1), outcome="refused"), lease=timedelta(minutes=1)
    )
    start_run(database, run, lease=timedelta(minutes=1))
    start_run(
        database, replace(run, id=parameters.new_id(), started_at=at(4), outcome="failures"), lease=timedelta(minutes=1)
    )

    status = reader.status(Due(placed_until=at(5), due_until=at(5)))

    assert status.last_run is not None
    assert status == Status(
        calls=7,
        settled=4,
        by_callback=3,
        by_lookup=1,
        missing=2,
        overdue=1,
        oldest_missing=at(0),
        given_up=1,
        given_up_to_see_to=1,
        given_up_calls=["given-up"],
        unregistered=status.unregistered,
        last_day=LookupShare(0, 0),
        conflicts=1,
        price_conflicts=0,
        price_conflict_calls=[],
        rejected=1,
        rejected_reasons={"ReferenceId: is missing": 1},
        rejected_bytes=2 * (3 + 512),
        other_channels=0,
        unread_last_day={},
        no_answer=NoAnswer({}, None),
        callbacks=CallbackTimes(at(41), timedelta(hours=1), placed_since=False),
        wrong_tokens=WrongTokens(0, None, right_since=False),
        token_uses=[],
        replay_due_since=None,
        clock_ahead=status.clock_ahead,
        last_run=status.last_run,
    )
    assert (status.last_run["id"], status.last_run["outcome"], status.last_run["checked"]) == (run.id, "done", 3)


def test_an_empty_database_has_a_status_too(reader: Reader) -> None:
    status = reader.status(Due(placed_until=NOW, due_until=NOW))

    assert (status.calls, status.oldest_missing, status.rejected_bytes, status.last_run) == (0, None, 0, None)


def test_the_first_calls_given_up_are_named_oldest_placed_first(writer: Writer, reader: Reader) -> None:
    place(writer, {f"call-{number:02}": -100 * HOUR - number // 2 for number in range(25)})
    writer.conclude([LookupAnswer(f"call-{number:02}", "104") for number in range(25)], NOW, give_up=GIVE_UP)
    oldest_first = sorted(range(25), key=lambda number: (-(number // 2), number))

    status = reader.status(Due(placed_until=NOW, due_until=NOW))

    assert (status.given_up, status.missing) == (25, 0)
    assert status.given_up_calls == [f"call-{number:02}" for number in oldest_first[:20]]


def test_the_share_of_lookups_is_of_the_calls_settled_in_the_last_24_hours(writer: Writer, reader: Reader) -> None:
    day = 24 * HOUR
    place(writer, {"open": 0, "given-up": -100 * HOUR})
    writer.conclude([LookupAnswer("given-up", "104")], NOW, give_up=GIVE_UP)
    writer.record([callback("open", 1, send_status=7)], NOW)
    writer.record(
        [
            callback("a", 1, call_status="BUSY"),
            callback("b", 2, call_status="BUSY"),
            lookup("b", 3, call_status="BUSY"),
            lookup("c", 4, call_status="BUSY"),
            callback("c", 5, call_status="BUSY"),
            lookup("old", -day, call_status="BUSY"),
            lookup("old", 6, call_status="BUSY"),
        ],
        NOW,
    )

    assert reader.lookup_share(at(10)) == LookupShare(3, 1)
    assert reader.lookup_share(at(10)).share == 1 / 3
    assert reader.lookup_share(at(0)) == LookupShare(1, 1), "what was settled after that moment does not count"
    assert reader.lookup_share(at(0.000001)) == LookupShare(0, 0)
    assert reader.lookup_share(at(day + 2)) == LookupShare(2, 1)
    assert reader.lookup_share(at(2 * day)).share is None
    assert reader.status(Due(placed_until=at(0), due_until=at(10))).last_day == LookupShare(3, 1)


def test_the_share_of_lookups_is_read_from_an_index(reader: Reader, database: Database) -> None:
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    asked: list[tuple[str, Any]] = []

    def see(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", see)
    try:
        reader.lookup_share(NOW)
    finally:
        event.remove(Engine, "before_cursor_execute", see)
    with database.snapshot(limited=False) as connection:
        if not database.is_sqlite:
            # Of an empty table PostgreSQL thinks that it is as good as its index.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(explain + asked[-1][0], asked[-1][1]).all()
    assert "ix_calls_settled_at" in str(plan)


def test_what_is_due_is_counted_and_named_in_the_order_in_which_it_is_asked_about(
    writer: Writer, reader: Reader
) -> None:
    a_little_of_everything(writer)
    place(writer, {"older": -5})

    assert reader.due(Due(placed_until=at(9), due_until=at(9)), 10) == (2, ["older", "missing"])
    assert reader.due(Due(placed_until=at(HOUR), due_until=at(HOUR)), 10) == (
        4,
        ["older", "missing", "asked", "conflict"],
    )
    assert reader.due(Due(placed_until=at(HOUR), due_until=at(HOUR)), 0) == (4, [])


# What could not be read, and everything


def a_rejected(seconds: float, payload: str) -> Rejected:
    return Rejected(
        id=parameters.new_id(),
        received_at=at(seconds),
        remote_addr="203.0.113.7",
        method="POST",
        content_type="text/plain",
        payload=payload,
        reason="ReferenceId: is missing",
    )


def test_rejected_callbacks_come_oldest_first_until_they_are_replayed(writer: Writer, reader: Reader) -> None:
    kept = [a_rejected(number, str(number)) for number in range(4)]
    for one in kept:
        writer.reject(one)
    writer.replay_rejected(callback("a", 1, id=kept[1].id, call_status="BUSY"), NOW)

    assert list(reader.rejected(None)) == [kept[0], kept[2], kept[3]]
    assert list(reader.rejected(at(3))) == [kept[3]]
    writer.reject(a_rejected(9, "0"))
    assert list(reader.rejected(at(3))) == [kept[0], kept[3]]


def test_rejected_callbacks_may_be_replayed_while_they_are_read(
    writer: Writer, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.storage.reader._PORTION", 2)
    kept = [a_rejected(number, str(number)) for number in range(5)]
    for one in kept:
        writer.reject(one)

    replayed = []
    for one in reader.rejected(None):
        writer.replay_rejected(callback("a", 1, id=one.id, call_status="BUSY"), NOW)
        replayed.append(one)

    assert replayed == kept
    assert list(reader.rejected(None)) == []


@pytest.mark.parametrize("at_once", [1, 2, 3, 1000])
def test_the_ids_of_all_calls_include_those_that_only_history_knows(
    writer: Writer, reader: Reader, database: Database, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("webapp.storage.reader._PORTION", at_once)
    place(writer, {"b": 1, "registered": 1, "B": 1})
    writer.record([callback(name, second, call_status="BUSY") for name in ("b", "a", "z") for second in (1, 2)], NOW)
    change_by_hand(database, "DELETE FROM calls WHERE reference_id = 'z'")

    portions = list(reader.reference_ids())

    assert list(chain(*portions)) == ["B", "a", "b", "registered", "z"]
    assert all(len(portion) <= at_once for portion in portions)
