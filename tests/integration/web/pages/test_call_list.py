"""The list of calls on the page: its filters and search stand in the address, and its count equals what is listed."""

from __future__ import annotations

import csv
import html
import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from commands import done
from histories import put_history
from makers import NOW, callback, lookup
from pages import sign_in, text_of
from recount import Fact, facts_of, refresh_all

from webapp.calls.rule import Registration
from webapp.storage.time_zone import set_zone
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from webapp.storage.database import Database

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
pytestmark = ON_SQLITE


@pytest.fixture
def facts(database: Database) -> list[Fact]:
    put_history(database, 11, 80)
    many = [Registration(reference_id=f"many/{number:03}", campaign="<i>", phone="0901888484") for number in range(60)]
    Writer(database).register(many, NOW)
    refresh_all(database)
    return facts_of(database)


def listed(page: TestResponse) -> list[str]:
    return [
        html.unescape(one) for one in re.findall(r'<th scope="row" class="id"><a href="[^"]*">(.*?)</a>', page.text)
    ]


def link(page: TestResponse, words: str) -> str | None:
    found = re.search(rf'<a href="([^"]*)"[^>]*>{words}</a>', page.text)
    return html.unescape(found[1]) if found else None


def test_every_filter_lists_its_calls_and_counts_them(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)
    cases: list[tuple[str, Callable[[Fact], bool]]] = [
        ("", lambda _: True),
        ("outcome=answered", lambda fact: fact.answered),
        ("outcome=missing", lambda fact: fact.outcome == "missing"),
        ("key=1", lambda fact: fact.answered and fact.call.ivr == "1"),
        ("flag=conflict", lambda fact: fact.call.conflict),
        ("flag=price_conflict", lambda fact: fact.call.price_conflict),
        ("flag=recovered", lambda fact: fact.recovered),
        ("flag=unregistered", lambda fact: fact.call.registered_at is None),
        ("flag=unconfirmed", lambda fact: fact.call.settled_at is not None and fact.call.confirmed_at is None),
        ("flag=no_campaign", lambda fact: fact.call.campaign is None),
        ("campaign=%3Ci%3E", lambda fact: fact.call.campaign == "<i>"),
        ("from=2026-11-23&to=2026-11-23", lambda fact: f"{fact.day}" == "2026-11-23"),
        ("outcome=answered&flag=recovered", lambda fact: fact.answered and fact.recovered),
        ("q=MANY%2F01", lambda fact: fact.call.reference_id.startswith("many/01")),
        ("q=0901+888+484&outcome=missing", lambda fact: fact.call.phone == "0901888484"),
    ]
    for query, wanted in cases:
        expected = sorted(fact.call.reference_id for fact in facts if wanted(fact))

        page = client.get(f"/calls?{query}&lang=en")
        names = listed(page)
        count = re.search(r"<small>([0-9,]+) in this list</small>", page.text)
        while older := link(page, "Older"):
            page = client.get(older)
            names += listed(page)

        assert sorted(names) == expected
        assert count is None or int(count[1]) == len(expected)
        uncounted = {"flag=price_conflict", "flag=unconfirmed", "flag=no_campaign"}
        assert count is not None or "q=" in query or query in uncounted


def test_the_download_has_what_is_listed(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)
    for query in [
        "",
        "outcome=answered",
        "flag=unregistered",
        "from=2026-11-23&to=2026-11-23",
        "q=many",
        "q=0901&outcome=missing",
    ]:
        page = client.get(f"/calls?{query}&lang=en")
        address = link(page, r"Download this list \(CSV\)")
        assert address

        lines = list(csv.DictReader(io.StringIO(client.get(address).text)))

        names = listed(page)
        while older := link(page, "Older"):
            page = client.get(older)
            names += listed(page)
        assert [line["reference_id"] for line in lines] == names


def test_the_list_has_seconds_of_calls_that_were_taken_and_prices_of_settled_ones(
    client: FlaskClient, database: Database
) -> None:
    Writer(database).record(
        [
            callback("answered", call_status="ANSWERED", call_duration=31, price=Decimal(450)),
            callback("not taken", call_status="NOANSWERED", call_duration=0, price=Decimal(0)),
            callback("under way", send_status=7, call_duration=0, price=Decimal(0), final=False),
        ],
        NOW,
    )
    sign_in(client)
    rows = client.get("/calls?lang=en").text.split("<tr>")[2:]

    shown = {
        re.findall(r'<a href="[^"]*">(.*?)</a>', row)[0]: re.findall(r'data-name="[SP]\w+">(.*?)</td>', row)
        for row in rows
    }

    assert shown == {
        "answered": ["31", "450\N{NO-BREAK SPACE}₫"],
        "not taken": ["", "0\N{NO-BREAK SPACE}₫"],
        "under way": ["", ""],
    }


def test_the_list_marks_what_a_look_up_recovered_and_has_a_workbook(client: FlaskClient, database: Database) -> None:
    Writer(database).record([lookup("lost", call_status="BUSY"), callback("came", call_status="BUSY")], NOW)
    sign_in(client)

    page = client.get("/calls?lang=en&outcome=other")

    marked = [row for row in page.text.split("<tr>") if "by lookup</span>" in row]
    assert len(marked) == 1
    assert ">lost</a>" in marked[0]
    assert link(page, r"Excel \(\.xlsx\)") == "/calls.xlsx?outcome=other&lang=en"


def test_a_list_that_the_figures_do_not_have_yet_has_no_count(client: FlaskClient, database: Database) -> None:
    Writer(database).record([callback("new", call_status="BUSY")], NOW)
    sign_in(client)

    page = client.get("/calls?lang=en")

    assert listed(page) == ["new"]
    assert "in this list" not in page.text


def test_a_call_of_the_list_is_reached_by_its_link(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)

    page = client.get("/calls?q=many/059")

    address = link(page, "many/059")
    assert address
    assert "many/059" in text_of(client.get(address))


@pytest.mark.parametrize(
    "query", ["outcome=good", "key=x", "flag=x", "from=yesterdayish", "range=8", f"q={'x' * 201}", "q=%00"]
)
def test_a_wrong_filter_is_named_and_every_call_shown(client: FlaskClient, facts: list[Fact], query: str) -> None:
    assert facts
    sign_in(client)

    page = client.get(f"/calls?{query}&lang=en")

    assert page.status_code == 400
    assert "Shown instead: every call." in text_of(page)
    assert len(listed(page)) == 50


def test_a_page_of_the_list_that_is_not_known_is_an_error_in_words(client: FlaskClient) -> None:
    sign_in(client)

    page = client.get("/calls?after=x&lang=en")

    assert page.status_code == 400
    assert "begin with the newest calls" in text_of(page)


def test_chips_take_one_choice_away(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)

    page = client.get("/calls?outcome=answered&key=1&campaign=tet&lang=en")

    addresses = [html.unescape(one) for one in re.findall(r'class="chip" href="([^"]*)"', page.text)]
    assert [sorted(re.findall(r"[?&](\w+)=", one)) for one in addresses] == [
        ["key", "lang", "outcome"],
        ["campaign", "key", "lang"],
        ["campaign", "lang", "outcome"],
    ]


def test_without_any_call_it_says_so(client: FlaskClient) -> None:
    sign_in(client)

    assert "No call yet" in text_of(client.get("/calls?lang=en"))
    assert "No such call." in text_of(client.get("/calls?q=1&lang=en"))


def test_calls_at_the_ends_of_time_are_shown(client: FlaskClient, database: Database) -> None:
    ends = {"first": "0001-01-01T00:00:00+00:00", "last": "9999-12-31T23:59:59+00:00"}
    placed = [
        Registration(reference_id=name, placed_at=datetime.fromisoformat(moment)) for name, moment in ends.items()
    ]
    Writer(database).register(placed, NOW)
    refresh_all(database)
    sign_in(client)

    assert listed(client.get("/calls")) == ["last", "first"]
    assert "31 Dec 9999, 23:59:59 UTC" in text_of(client.get("/calls/last?lang=en"))
    assert client.get("/calls/first").status_code == 200


@pytest.mark.parametrize("path", ["/", "/calls", "/calls/one"])
def test_times_are_in_the_zone_that_the_page_names(client: FlaskClient, database: Database, path: str) -> None:
    Writer(database).register([Registration(reference_id="one", placed_at=datetime.now(UTC))], NOW)
    with database.transaction() as connection:
        set_zone(connection, ZoneInfo("UTC"), NOW)
    refresh_all(database)
    sign_in(client)
    before = datetime.now(UTC).replace(microsecond=0)

    text = text_of(client.get(f"{path}?lang=en"))

    as_of, zone = re.findall(r"Figures as of (.*?) · (.*?) ·", text)[0]
    assert zone == "UTC"
    assert before <= datetime.strptime(f"{as_of} +0000", "%d %b %Y, %H:%M:%S %z") <= datetime.now(UTC)


def test_what_the_figures_do_not_count_has_no_count(client: FlaskClient, database: Database) -> None:
    Writer(database).record([callback("a", call_status="NOANSWERED", send_status=5, ivr="1")], NOW)
    refresh_all(database)
    sign_in(client)

    page = client.get("/calls?outcome=unanswered&key=1&lang=en")

    assert (listed(page), "in this list" in page.text) == (["a"], False)


@pytest.mark.parametrize(("query", "here", "gone"), [("", 2, 3), ("campaign=tet", 1, 3), ("outcome=answered", 1, 0)])
def test_calls_that_were_purged_are_not_counted_as_listed(
    client: FlaskClient, database: Database, query: str, here: int, gone: int
) -> None:
    now, writer = datetime.now(UTC), Writer(database)
    old = [Registration(reference_id=f"{n}", campaign="tet", placed_at=now - timedelta(days=40)) for n in range(3)]
    new = [Registration(reference_id=name, campaign=of, placed_at=now) for name, of in (("a", "tet"), ("b", None))]
    writer.register([*old, *new], now)
    writer.record([callback("b", call_status="ANSWERED", send_status=5)], now)
    done("purge", "--older-than", "30d", "--keep-totals")
    refresh_all(database)
    sign_in(client)

    page = client.get(f"/calls?{query}&lang=en")

    counted = re.findall(r"<small>(.*?)</small>", page.text)
    assert counted == [f"{here} in this list" + (f" · {gone} more were removed (purge)" if gone else "")]
    assert len(listed(page)) == here
