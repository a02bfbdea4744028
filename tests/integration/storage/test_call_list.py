"""The list of calls: pages in order, searches by beginnings, and an end to looking for rare calls."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from makers import NOW, callback

from webapp.calls.phone import PLAIN
from webapp.calls.rule import Registration
from webapp.storage import call_list, search
from webapp.storage.call_list import Found, read_list
from webapp.storage.filters import EVERY_CALL, CallFilter
from webapp.storage.search import Search

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

_FROM_1 = ("01", *(str(number) for number in range(10, 20)))


@pytest.fixture
def stored(writer: Writer) -> list[str]:
    """Thirty calls, the newest placed first; every tenth answered."""
    names = [f"call-{number:02}" for number in range(30)]
    writer.register(
        [
            Registration(
                reference_id=name,
                placed_at=NOW + timedelta(minutes=number // 2),
                campaign="tet" if number % 3 else None,
                phone=f"0901 888 4{number:02}",
                request_id=f"Order-{number}",
            )
            for number, name in enumerate(names)
        ],
        NOW,
    )
    writer.record([callback(name, call_status="ANSWERED", send_status=5, ivr="1") for name in names[::10]], NOW)
    return names[::-1]


def ids(found: Found) -> list[str]:
    return [call["reference_id"] for call in found.calls]


def all_pages(database: Database, wanted: CallFilter, limit: int = 7, text: str = "") -> tuple[list[str], int]:
    """The ids on all pages, and the number of pages that stopped before they were full."""
    names: list[str] = []
    after, stops = None, 0
    while True:
        with database.snapshot() as connection:
            found = read_list(connection, wanted, after, limit, Search.of(text, PLAIN) if text else None)
        names += ids(found)
        stops += found.stopped
        after = found.older
        if after is None:
            return names, stops


def test_pages_have_every_call_once_newest_first(database: Database, stored: list[str]) -> None:
    assert all_pages(database, EVERY_CALL) == (stored, 0)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (CallFilter(campaign="tet"), [number for number in range(30) if number % 3]),
        (CallFilter(since=NOW + timedelta(minutes=10)), range(20, 30)),
        (CallFilter(until=NOW + timedelta(minutes=10)), range(20)),
        (CallFilter(outcomes=("answered",)), [0, 10, 20]),
        (CallFilter(outcomes=("missing",)), [number for number in range(30) if number % 10]),
        (CallFilter(outcomes=("answered",), ivr="1", until=NOW + timedelta(minutes=10)), [0, 10]),
        (CallFilter(recovered=True), []),
        (CallFilter(price_conflict=True), []),
        (CallFilter(registered=True), range(30)),
    ],
)
def test_filters_leave_the_wanted_calls(
    database: Database, stored: list[str], wanted: CallFilter, numbers: list[int]
) -> None:
    assert all_pages(database, wanted, 3)[0] == [stored[29 - number] for number in sorted(numbers, reverse=True)]


def test_looking_for_rare_calls_stops_and_says_where_to_go_on(
    database: Database, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_list, "MOST_SCANNED", 8)
    wanted = CallFilter(outcomes=("answered",))

    with database.snapshot() as connection:
        first = read_list(connection, wanted, None, 50)

    assert (ids(first), first.stopped) == ([], True)
    assert all_pages(database, wanted, 50) == ([stored[9], stored[19], stored[29]], 3)
    assert all_pages(database, CallFilter(outcomes=("missing",)), 50)[1] == 0


@pytest.mark.parametrize(
    ("search", "numbers"),
    [
        ("call-1", range(10, 20)),
        (" CALL-07 ", [7]),
        ("Order-2", [2, *range(20, 30)]),
        ("order-2", []),
        ("0901 888 405", [5]),
        ("+84 901.888.41", range(10, 20)),
        ("84901888402", [2]),
        ("901888402", [2]),
        ("0084 901 888 402", [2]),
        ("+84 (0)901 888 402", [2]),
        ("840901888402", [2]),
        ("%", []),
        ("call_1", []),
        ("'; --", []),
        ("ờ", []),
    ],
)
def test_a_search_finds_what_begins_so(database: Database, stored: list[str], search: str, numbers: list[int]) -> None:
    expected = [stored[29 - number] for number in sorted(numbers, reverse=True)]

    assert all_pages(database, EVERY_CALL, 4, search)[0] == expected


def test_a_search_within_filters(database: Database, stored: list[str]) -> None:
    assert all_pages(database, CallFilter(outcomes=("answered",)), 4, "call-1") == ([stored[19]], 0)


@pytest.mark.parametrize("wanted", [EVERY_CALL, CallFilter(outcomes=("answered",))])
def test_a_search_that_finds_very_many_has_all_of_them_newest_first(
    database: Database, stored: list[str], monkeypatch: pytest.MonkeyPatch, wanted: CallFilter
) -> None:
    monkeypatch.setattr(search, "MOST_FOUND", 2)
    monkeypatch.setattr(call_list, "MOST_SCANNED", 8)
    expected = stored if wanted is EVERY_CALL else stored[9::10]

    assert all_pages(database, wanted, 4, "call-")[0] == expected
    assert all_pages(database, wanted, 4, "+849")[0] == expected
    assert all_pages(database, wanted, 4, "Order-1")[0] == [name for name in expected if name[5:7] in _FROM_1]
    with database.snapshot() as connection:
        assert Search.of("call-0", PLAIN).ids(connection) is None
        assert Search.of("call-07", PLAIN).ids(connection) is not None
