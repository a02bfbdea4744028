"""The overview: every number on it equals a recount in Python, whatever was chosen."""

from __future__ import annotations

import csv
import html
import io
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from histories import put_history
from makers import NOW, callback
from pages import sign_in, text_of
from recount import Fact, facts_of, refresh_all
from sqlalchemy import insert

from webapp.calls.rule import Registration
from webapp.storage.dismissals import dismiss_calls
from webapp.storage.models import reconcile_runs
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from webapp.storage.database import Database

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
NAME = "<b>Tết & 'é'</b>"
DAYS = "from=2026-11-20&to=2026-11-27"


@pytest.fixture
def facts(database: Database) -> list[Fact]:
    put_history(database, 11, 80)
    named = {"v": "tet", "w": NAME}
    Writer(database).register([Registration(reference_id=one, campaign=name) for one, name in named.items()], NOW)
    refresh_all(database)
    return facts_of(database)


def tiles(page: str) -> dict[str, str]:
    found = re.findall(r'data-tile="(\w+)">(.*?)</p>', page, re.DOTALL)
    return {name: html.unescape(re.sub(r"<[^>]*>", "", value)).strip() for name, value in found}


def table(page: TestResponse, header: str) -> list[list[str]]:
    """The rows of the table whose first header is this one, without its headers."""
    return with_headers(page, header)[1:]


def with_headers(page: TestResponse, header: str) -> list[list[str]]:
    for found in re.findall(r"<table.*?</table>", page.text, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        plain = [[html.unescape(" ".join(re.sub(r"<[^>]*>", "", one).split())) for one in row] for row in cells]
        if plain and plain[0] and plain[0][0] == header:
            return plain
    raise AssertionError(f"no table {header}")


def share_of(facts: list[Fact]) -> str:
    of = sum(fact.with_outcome for fact in facts)
    answered = sum(fact.answered for fact in facts)
    is_otp = not answered and any(fact.outcome == "delivered" for fact in facts)
    return f"{answered / of:.1%}" if of and not is_otp else "–"  # noqa: RUF001


def expected_tiles(facts: list[Fact]) -> dict[str, str]:
    of = {name: sum(fact.measures[name] for fact in facts) for name in facts[0].measures}
    units = of["price"] * 10000 + of["price_fraction"]
    outcomes = Counter(fact.outcome for fact in facts)
    return {
        "calls": f"{of['calls']:,}",
        "share": share_of(facts),
        "cost": f"{round(Decimal(units) / 10000):,}\N{NO-BREAK SPACE}₫",
        "missing": f"{outcomes['missing']:,}",
        "recovered": f"{of['recovered']:,}",
        "conflicts": f"{of['conflicts']:,}",
        "unregistered": f"{of['unregistered']:,}",
    }


def test_tiles_equal_a_recount(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)
    cases: list[tuple[str, Callable[[Fact], bool]]] = [
        (DAYS, lambda _: True),
        ("from=2026-11-23&to=2026-11-23", lambda fact: f"{fact.day}" == "2026-11-23"),
        (f"{DAYS}&campaign=tet", lambda fact: fact.call.campaign == "tet"),
        ("from=2026-01-01&to=2026-12-31", lambda _: True),
        ("from=2018-01-01&to=2026-12-31", lambda _: True),
    ]
    for query, wanted in cases:
        page = client.get(f"/?{query}&lang=en")

        found = tiles(page.text)
        assert found.pop("talk")
        assert found == expected_tiles([fact for fact in facts if wanted(fact)])


def test_tables_equal_a_recount(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)

    page = client.get(f"/?{DAYS}&lang=en")

    by_day: dict[str, Counter[str]] = {}
    for fact in facts:
        by_day.setdefault(f"{fact.day:%-d %b %Y}", Counter())[fact.outcome] += 1
    headers, *rows = with_headers(page, "Days")
    words = {"No result yet": "missing", "Given up": "given_up", "Not answered": "unanswered"}
    outcomes = [words.get(header, header.lower()) for header in headers[3:]]
    assert {*outcomes} == {fact.outcome for fact in facts}
    for name, total, share, *numbers in rows:
        of = by_day.get(name, Counter())
        assert [int(total), *map(int, numbers)] == [of.total(), *(of[outcome] for outcome in outcomes)]
        assert share == share_of([fact for fact in facts if f"{fact.day:%-d %b %Y}" == name])
    answered = [fact for fact in facts if fact.answered]
    keys = Counter(fact.labels["key"] for fact in answered)
    named = {"none": "no key", "several": "several keys"}
    assert {row[0]: (row[2], row[3]) for row in table(page, "Key")} == {
        named.get(key, key): (f"{number}", f"{number / len(answered):.1%}") for key, number in keys.items()
    }
    talk = [fact.talk_seconds for fact in facts if fact.talk_seconds is not None]
    assert sum(int(row[1]) for row in table(page, "Seconds")) == len(talk)
    assert int(table(page, "Seconds")[0][1]) == sum(seconds <= 10 for seconds in talk)
    delays = [fact.callback_seconds for fact in facts if fact.callback_seconds is not None]
    assert table(page, "Time")[0][2] == f"{sum(seconds <= 10 for seconds in delays) / len(delays):.1%}"


def test_the_answered_share_by_weekday_and_hour_equals_a_recount(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)
    for query in [DAYS, "from=2026-11-23&to=2026-11-23"]:
        page = client.get(f"/?{query}&lang=en")
        found = [fact for fact in facts if query == DAYS or f"{fact.day}" == "2026-11-23"]

        (hours, *rows) = re.findall(r"<tr>(.*?)</tr>", page.text.partition('class="heat')[2].partition("</table>")[0])
        columns = re.findall(r">(\w+)</th>", hours)

        weekdays = {"Mon": 1, "Tue": 2, "Wed": 3, "Thu": 4, "Fri": 5, "Sat": 6, "Sun": 7}
        assert columns == [*map(str, sorted({fact.at.hour for fact in found if fact.with_outcome})), "All"]
        for row in rows:
            (name,) = re.findall(r">(\w+)</th>", row)
            cells = re.findall(r'<td(?: class="[^"]*" title="(\d+) of (\d+)")?>(\d*)</td>', row)
            for column, (answered, of, percent) in zip(columns, cells, strict=True):
                there = [
                    fact
                    for fact in found
                    if fact.with_outcome
                    and (name == "All" or fact.at.isoweekday() == weekdays[name])
                    and (column == "All" or fact.at.hour == int(column))
                ]
                expected = (sum(fact.answered for fact in there), len(there)) if there else (0, 0)
                assert (int(answered or 0), int(of or 0)) == expected
                assert not there or int(percent) == round(100 * expected[0] / expected[1])


def test_campaigns_equal_a_recount_on_the_page_and_as_csv(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)

    page = client.get(f"/?{DAYS}&lang=en")
    rows = table(page, "Campaign")
    lines = list(csv.DictReader(io.StringIO(client.get(f"/campaigns.csv?{DAYS}").text)))

    calls = Counter(fact.call.campaign for fact in facts)
    assert {row[0]: int(row[1]) for row in rows} == {name or "without a campaign": n for name, n in calls.items()}
    without = re.findall(r'<a href="([^"]*)"><i>without a campaign', page.text)
    assert [listed(client, html.unescape(link)) for link in without] == [calls[None]]
    assert {line["campaign"]: int(line["calls"]) for line in lines} == {name or "": n for name, n in calls.items()}
    for line in lines:
        of = [fact for fact in facts if (fact.call.campaign or "") == line["campaign"]]
        assert int(line["answered"]) == sum(fact.answered for fact in of)
        assert int(line["missing"]) == sum(fact.outcome == "missing" for fact in of)


def test_voice_otp_has_a_delivered_share_and_no_answered_one(client: FlaskClient, database: Database) -> None:
    writer = Writer(database)
    writer.register([Registration(reference_id=name, campaign="OTP", placed_at=NOW) for name in "abcd"], NOW)
    writer.record([*(callback(name, 2, sent_result=1) for name in "abc"), callback("d", 2, sent_result=0)], NOW)
    refresh_all(database)
    sign_in(client)

    of_otp = client.get(f"/?{DAYS}&campaign=OTP&lang=en")
    (row,) = [row for row in table(client.get(f"/?{DAYS}&lang=en"), "Campaign") if row[0] == "OTP"]

    assert tiles(of_otp.text)["share"] == "75.0%"
    assert "Delivered share" in of_otp.text
    assert 'class="heat' not in of_otp.text
    assert [row[2] for row in table(of_otp, "Days") if row[1] == "4"] == ["–"]  # noqa: RUF001
    assert row[:5] == ["OTP", "4", "", "–", "3"]  # noqa: RUF001


def listed(client: FlaskClient, link: str) -> int:
    """The number of calls in a list, all its pages together."""
    answer, number = client.get(link), 0
    while True:
        assert answer.status_code == 200, link
        number += answer.text.count('class="id"><a href=')
        older = re.search(r'href="([^"]+)" rel="next"', answer.text)
        if older is None:
            return number
        answer = client.get(html.unescape(older[1]))


def test_each_link_beside_a_number_leads_to_that_number_of_calls(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)
    for query in [DAYS, "from=2026-11-23&to=2026-11-23", f"{DAYS}&campaign=tet", "from=2020-01-01&to=2026-11-27"]:
        page = client.get(f"/?{query}&lang=en").text

        links = re.findall(r'<a href="(/calls\?[^"]*)">([\d,]+)\b[^<]*</a>', page)
        keys = re.findall(r'<a class="key" href="([^"]*)">.*?</td>.*?<td class="n">([\d,]+)</td>', page, re.DOTALL)

        assert len(links) >= 5
        for link, number in [*links, *keys]:
            assert listed(client, html.unescape(link)) == int(number.replace(",", "")), link


def test_each_column_leads_to_the_overview_of_its_days(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)
    page = client.get(f"/?{DAYS}&lang=en")
    columns = table(page, "Days")
    links = re.findall(r'<th scope="row" class="when"><a href="(/\?from=[^"]*)">', page.text)

    assert len(links) == len(columns)
    for link, (_, total, *_parts) in zip(links, columns, strict=True):
        there = client.get(html.unescape(link)).text
        assert tiles(there).get("calls", "0") == total


def test_the_hours_of_one_day_equal_a_recount(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)

    page = client.get("/?from=2026-11-23&to=2026-11-23&lang=en")

    there = [fact for fact in facts if f"{fact.day}" == "2026-11-23"]
    assert there
    for hour, *numbers in table(page, "Hour"):
        of = [fact for fact in there if fact.at.hour == int(hour)]
        answered, with_outcome = (sum(getattr(fact, name) for fact in of) for name in ("answered", "with_outcome"))
        assert numbers == [f"{n}" for n in (len(of), answered, with_outcome - answered, len(of) - with_outcome)]


@ON_SQLITE
@pytest.mark.parametrize(
    ("outcome", "words"), [("failures", "had failures"), ("refused", "refused the account"), (None, "died")]
)
def test_a_latest_run_that_failed_needs_a_look(
    client: FlaskClient, database: Database, outcome: str | None, words: str
) -> None:
    put_history(database, 11, 5)
    long_ago = datetime.now(UTC) - timedelta(days=1)
    with database.transaction() as connection:
        finished = long_ago if outcome else None
        row = {"id": uuid4(), "host": "h", "started_at": long_ago, "finished_at": finished, "outcome": outcome}
        connection.execute(insert(reconcile_runs).values(row))
    sign_in(client)

    page = client.get("/?lang=en").text

    needs = re.search(r'<section class="needs".*?</section>', page, re.DOTALL)
    assert needs
    assert words in needs[0]


@ON_SQLITE
def test_what_needs_a_look_is_a_link_to_it(client: FlaskClient, facts: list[Fact]) -> None:
    sign_in(client)

    text = text_of(client.get("/?lang=en"))

    missing = sum(fact.outcome == "missing" for fact in facts)
    conflicts = sum(fact.call.conflict for fact in facts)
    assert f"{missing} calls without a result (of all days)" in text
    assert not conflicts or f"{conflicts} in conflict" in text


@ON_SQLITE
def test_callbacks_that_have_stopped_need_a_look_and_lead_to_the_newest_calls(
    client: FlaskClient, database: Database
) -> None:
    now = datetime.now(UTC)
    writer = Writer(database)
    writer.record([callback("last", received_at=now - timedelta(hours=3), call_status="BUSY")], now)
    writer.register([Registration(reference_id="since", placed_at=now - timedelta(hours=1))], now)
    sign_in(client)

    link = re.search(r'<a href="([^"]*)">No callback since ', client.get("/?lang=en").text)

    assert link
    assert listed(client, html.unescape(link[1])) == 2


@ON_SQLITE
def test_two_prices_that_a_person_has_seen_to_are_neither_counted_nor_listed(
    client: FlaskClient, database: Database
) -> None:
    writer = Writer(database)
    for name in ("seen", "open"):
        said = {"call_status": "ANSWERED", "send_status": 5}
        writer.record([callback(name, second, price=Decimal(second), **said) for second in (1, 2)], NOW)
    with database.transaction() as connection:
        dismiss_calls(connection, ["seen"], NOW, undo=False)
    refresh_all(database)
    sign_in(client)

    link = re.search(r'<a href="([^"]*)">1 with two prices', client.get("/?lang=en").text)

    assert link
    assert listed(client, html.unescape(link[1])) == 1
    assert listed(client, "/calls?flag=price_conflict") == 2


@ON_SQLITE
@pytest.mark.parametrize(
    ("language", "number", "words"),
    [
        ("en", 1, "1 call without a result"),
        ("en", 2, "2 calls without a result"),
        ("vi", 1, "1 cuộc chưa có kết quả"),
        ("vi", 2, "2 cuộc chưa có kết quả"),
    ],
)
def test_counted_nouns_have_their_number(
    client: FlaskClient, database: Database, language: str, number: int, words: str
) -> None:
    placed_at = datetime.now(UTC) - timedelta(hours=1)
    calls = [Registration(reference_id=f"{one}", placed_at=placed_at) for one in range(number)]
    Writer(database).register(calls, datetime.now(UTC))
    refresh_all(database)
    sign_in(client)

    assert words in text_of(client.get(f"/?lang={language}"))


@ON_SQLITE
def test_a_call_that_was_just_placed_needs_no_look(client: FlaskClient, database: Database) -> None:
    Writer(database).register([Registration(reference_id="a")], datetime.now(UTC))
    refresh_all(database)
    sign_in(client)

    page = client.get("/?lang=en").text

    assert tiles(page)["missing"] == "1"
    assert "Needs a look" not in page


@ON_SQLITE
def test_the_last_line_names_the_time_zone_for_people(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    for language, words in [("en", "Vietnam time (UTC+7)"), ("vi", "giờ Việt Nam (UTC+7)")]:
        sign_in(client)

        assert words in text_of(client.get(f"/?lang={language}")).partition("·")[2]


@ON_SQLITE
def test_a_wrong_range_is_named_and_the_usual_one_shown(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)
    for query in [
        "from=2026-13-01",
        "range=8",
        "from=2026-11-24&to=2026-11-23",
        "to=x%00",
        "range=all",
        "campaign=a%00",
        "from=1900-01-01&to=9000-01-01",
    ]:
        page = client.get(f"/?{query}")

        assert page.status_code == 400
        assert 'class="problem" role="alert"' in page.text
        assert "Đang hiện 30 ngày gần đây." in text_of(page)


@ON_SQLITE
def test_what_is_no_key_of_a_phone_has_no_link(client: FlaskClient, database: Database) -> None:
    said = {"call_status": "ANSWERED", "send_status": 5}
    Writer(database).record([callback("a", 0, ivr="A", **said), callback("b", 1, ivr="#", **said)], NOW)
    refresh_all(database)
    sign_in(client)

    page = client.get(f"/?{DAYS}&lang=en")

    assert {row[0] for row in table(page, "Key")} == {"A", "#"}
    assert re.findall(r'class="key" href="[^"]*[?&;]key=([^"&]*)', page.text) == ["%23"]


@ON_SQLITE
def test_names_of_campaigns_stay_text(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)

    page = client.get("/", query_string={"campaign": NAME, "from": "2026-11-20", "to": "2026-11-27"})

    assert "<b>Tết" not in page.text
    assert text_of(page).count(NAME) >= 2
    # Without its value a browser takes the text of an option, and folds the blanks in it.
    assert NAME in [html.unescape(value) for value in re.findall(r'<option value="([^"]*)" selected>', page.text)]


@ON_SQLITE
def test_before_the_first_call_it_says_how_to_begin(client: FlaskClient) -> None:
    sign_in(client)

    text = text_of(client.get("/?lang=en"))

    assert "No call yet" in text
    assert "esms-calls callback-url" in text
    assert "esms-calls register calls.csv" in text


@ON_SQLITE
def test_without_calls_on_the_days_it_says_so(client: FlaskClient, facts: list[Fact]) -> None:
    assert facts
    sign_in(client)

    assert "No calls on these days" in text_of(client.get("/?from=2020-01-01&to=2020-01-02&lang=en"))
