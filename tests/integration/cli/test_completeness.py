"""Completeness: every call is counted once, and the ids of a list that the database does not have are named."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result
from constants import sized
from hypothesis import example, given
from hypothesis import strategies as st
from makers import NOW, answer, at, callback, change_by_hand, lookup
from sqlalchemy import select

from webapp.calls.rule import Registration
from webapp.cli.commands import cli
from webapp.esms.lookup import LookupAnswer
from webapp.storage.filters import CallFilter
from webapp.storage.ledger import Counts, Ledger, day_of, ledger
from webapp.storage.models import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

HCM = ZoneInfo("Asia/Ho_Chi_Minh")
GRACE = timedelta(minutes=10)
GIVE_UP = timedelta(hours=72)
SET = pytest.mark.usefixtures("settings")
SUMMANDS = (
    "settled_by_callback",
    "settled_by_lookup",
    "gave_up",
    "missing_within_grace",
    "missing_beyond_grace",
)


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(cli, ["completeness", *map(str, arguments)], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def json_of(*arguments: object, code: int = 0, stdin: str | bytes = "") -> Any:
    """What the command says as JSON."""
    result = run("--json", *arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def listed(*arguments: object, stdin: str | bytes = "") -> str:
    """What it shows to people."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def counted(database: Database, wanted: CallFilter = CallFilter(), now: datetime = NOW) -> Counts:  # noqa: B008 - frozen
    with ledger(database, wanted, now - GRACE) as book:
        return book.whole()


# Counted again in Python


def any_history(writer: Writer, seed: int, number: int = 80) -> None:
    """Calls that were registered or not, reported in any order or never, looked up and given up; over six days."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    names = [f"call-{place}" for place in range(number)]
    for name in chance.sample(names, number * 2 // 3):
        placed_at = chance.choice([None, at(chance.uniform(-500_000, 3_600)), at(-600), at(-600.000001)])
        campaign = chance.choice([None, "tet", "Tết", "other"])
        registration = Registration(reference_id=name, campaign=campaign, placed_at=placed_at)
        writer.register([registration], at(chance.uniform(-2_000, 0)))
    for _ in range(number * 2):
        make = chance.choice([callback, callback, lookup])
        said: dict[str, Any] = chance.choice(
            [
                {"send_status": 7},
                {"call_status": "BUSY"},
                {"call_status": "ANSWERED"},
                {"call_status": "NOANSWERED"},
                {"send_status": 4},
                {"send_status": 5},
                {"sent_result": 0},
                {"sent_result": 1},
                {},
            ]
        )
        report = make(chance.choice(names[: number * 3 // 4]), chance.uniform(-90_000, 0), **said)
        if make is lookup and chance.random() < 0.5:
            writer.conclude([answer(report)], NOW, give_up=GIVE_UP)
        else:
            writer.record([report], NOW)
    asked = chance.sample(names, number * 3 // 4)
    writer.conclude([LookupAnswer(name, "104") for name in asked], NOW, give_up=GIVE_UP)
    writer.register([Registration(reference_id="just-placed", placed_at=at(-1))], NOW)


def recount(rows: Iterable[Mapping[str, Any]], now: datetime) -> dict[str, int]:
    """What a person would count, one call after the other."""
    found = dict.fromkeys(asdict(Counts(*[0] * 16)), 0)
    for call in rows:
        found["calls"] += 1
        if call["settled_at"]:
            found[f"settled_by_{call['settled_by']}"] += 1
            found["lost_and_recovered"] += call["settled_by"] == "lookup" and not call["callback_at"]
        elif call["gave_up_at"]:
            found["gave_up"] += 1
        elif call["placed_at"] + GRACE <= now:
            found["missing_beyond_grace"] += 1
        else:
            found["missing_within_grace"] += 1
        found["confirmed"] += call["confirmed_at"] is not None
        found["conflict"] += call["conflict"]
        found["never_registered"] += call["registered_at"] is None
        if call["settled_at"]:
            found[call["outcome"]] += 1
    return found


def stored(database: Database) -> list[Mapping[str, Any]]:
    with database.snapshot(limited=False) as connection:
        return [dict(row) for row in connection.execute(select(calls)).mappings()]


def grouped(rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> dict[Any, dict[str, int]]:
    groups = defaultdict(list)
    for call in rows:
        groups[key(call)].append(call)
    return {name: recount(group, NOW) for name, group in groups.items()}


@pytest.mark.parametrize("seed", range(sized(2)))
def test_the_ledger_of_any_history_is_what_counting_one_by_one_finds(
    writer: Writer, database: Database, seed: int
) -> None:
    any_history(writer, seed)
    rows = stored(database)
    expected = recount(rows, NOW)
    assert all(expected.values()), "every kind of call is there"

    with ledger(database, CallFilter(), NOW - GRACE) as book:
        whole = asdict(book.whole())
        days = {day: asdict(counts) for day, counts in book.by_day(HCM)}
        campaigns = {name: asdict(counts) for name, counts in book.by_campaign()}

    assert whole == expected
    assert whole["calls"] == sum(whole[name] for name in SUMMANDS)
    assert days == grouped(rows, lambda call: call["placed_at"].astimezone(HCM).date())
    assert list(days) == sorted(days)
    assert campaigns == grouped(rows, lambda call: call["campaign"])
    for groups in (days, campaigns):
        assert {name: sum(group[name] for group in groups.values()) for name in whole} == whole


def test_the_ledger_counts_only_what_is_wanted(writer: Writer, database: Database) -> None:
    any_history(writer, 7)
    for wanted in (
        CallFilter(since=at(-86_400)),
        CallFilter(until=at(-600)),
        CallFilter(since=at(-90_000), until=NOW, campaign="tet"),
    ):
        rows = [
            call
            for call in stored(database)
            if (wanted.since is None or call["placed_at"] >= wanted.since)
            and (wanted.until is None or call["placed_at"] < wanted.until)
            and wanted.campaign in {None, call["campaign"]}
        ]

        with ledger(database, wanted, NOW - GRACE) as book:
            assert asdict(book.whole()) == recount(rows, NOW)
            assert {day: asdict(counts) for day, counts in book.by_day(HCM)} == grouped(
                rows, lambda call: call["placed_at"].astimezone(HCM).date()
            )
            assert {name: asdict(counts) for name, counts in book.by_campaign()} == grouped(
                rows, lambda call: call["campaign"]
            )


def test_sums_match_for_any_values_in_a_row(database: Database) -> None:
    rows = [
        (settled_at, settled_by, gave_up_at)
        for settled_at in ("NULL", "'2026-11-23T10:00:00.000000Z'")
        for settled_by in ("NULL", "'callback'", "'lookup'", "'nobody'")
        for gave_up_at in ("NULL", "'2026-11-23T10:00:00.000000Z'")
    ]
    for place, (settled_at, settled_by, gave_up_at) in enumerate(rows):
        change_by_hand(
            database,
            "INSERT INTO calls (reference_id, settled_at, settled_by, gave_up_at)"  # noqa: S608 - our own
            f" VALUES ('call-{place}', {settled_at}, {settled_by}, {gave_up_at})",
        )

    counts = asdict(counted(database))

    assert counts["calls"] == len(rows) == sum(counts[name] for name in SUMMANDS)


def test_the_grace_ends_for_the_ledger_when_reconcile_asks(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(0))], NOW)

    before, then = (counted(database, now=at(seconds)) for seconds in (599.999999, 600))

    assert (before.missing_within_grace, before.missing_beyond_grace) == (1, 0)
    assert (then.missing_within_grace, then.missing_beyond_grace) == (0, 1)


def test_late_callback_does_not_count_as_lost(writer: Writer, database: Database) -> None:
    writer.record([lookup("lost", 1, call_status="BUSY"), lookup("late", 1, call_status="BUSY")], NOW)
    writer.record([callback("lost", 2, send_status=7), callback("late", 2, call_status="BUSY")], NOW)
    writer.record([callback("came", 1, call_status="BUSY"), lookup("came", 2, call_status="BUSY")], NOW)

    counts = counted(database)

    assert (counts.settled_by_lookup, counts.lost_and_recovered, counts.confirmed) == (2, 1, 3)


# Days


MODERN = st.datetimes(datetime(1995, 1, 1), datetime(2040, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001
ZONES = ["Asia/Ho_Chi_Minh", "UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Asia/Kathmandu"]


@example(datetime(2000, 10, 28, 4, tzinfo=UTC), "America/Havana")  # whose clocks strike the next midnight twice
@given(MODERN, st.sampled_from(ZONES))
def test_a_day_has_all_moments_until_the_next_one_begins(moment: datetime, name: str) -> None:
    zone = ZoneInfo(name)

    day, until = day_of(moment, zone)

    assert until is not None
    assert day == moment.astimezone(zone).date()
    assert until > moment
    assert (until - timedelta(microseconds=1)).astimezone(zone).date() == day
    assert until.astimezone(zone).date() > day


@pytest.mark.parametrize("zone", ["Asia/Ho_Chi_Minh", "America/Los_Angeles", "UTC"])
@pytest.mark.parametrize("far", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00"])
def test_calls_at_the_ends_of_time_have_a_day_too(writer: Writer, database: Database, far: str, zone: str) -> None:
    placed_at = datetime.fromisoformat(far)
    writer.register([Registration(reference_id="far", placed_at=placed_at), Registration(reference_id="a")], NOW)

    with ledger(database, CallFilter(), NOW) as book:
        days = list(book.by_day(ZoneInfo(zone)))

    assert [counts.calls for _, counts in days] == [1, 1]
    assert {day.year for day, _ in days} == {placed_at.year, 2026}


@SET
def test_days_begin_and_end_at_midnight_in_the_zone_that_is_set(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = datetime(2026, 11, 23, 17, tzinfo=UTC)
    moments = {"a": midnight - timedelta(microseconds=1), "b": midnight, "c": midnight + timedelta(days=3)}
    writer.register([Registration(reference_id=name, placed_at=moment) for name, moment in moments.items()], NOW)

    assert [(group["day"], group["calls"]) for group in json_of("--by", "day")] == [
        ("2026-11-23", 1),
        ("2026-11-24", 1),
        ("2026-11-27", 1),
    ]
    assert [group["day"] for group in json_of("--by", "day", "--since", "2026-11-24", "--until", "2026-11-25")] == [
        "2026-11-24"
    ]
    monkeypatch.setenv("TIME_ZONE", "UTC")
    assert [(group["day"], group["calls"]) for group in json_of("--by", "day")] == [
        ("2026-11-23", 2),
        ("2026-11-26", 1),
    ]


# Twins


def twins(database: Database, wanted: CallFilter = CallFilter()) -> list[tuple[str, str]]:  # noqa: B008 - frozen
    with ledger(database, wanted, NOW) as book:
        return list(book.twins())


def placed_and_reported(writer: Writer, placed: Iterable[str], reported: Iterable[str]) -> None:
    writer.register([Registration(reference_id=name, placed_at=at(0)) for name in placed], NOW)
    writer.record([callback(name, 1, call_status="BUSY") for name in reported], NOW)


def test_ids_that_are_equal_but_for_punctuation_are_named_in_pairs_and_never_merged(
    writer: Writer, database: Database
) -> None:
    placed_and_reported(
        writer,
        ["8eb2af6d-fb4c-4814-b9cc-4c0e3ed32edf", "a.b", "a-b", "plain", "{x}", "$'\"\\%_~", "none", "z-9"],
        ["8eb2af6d-fb4c4814-b9cc-4c0e3ed32edf", "ab", "a_b", "p-l-a-i-n", "x", "--", "other", "z-8"],
    )

    assert twins(database) == [
        ("8eb2af6d-fb4c-4814-b9cc-4c0e3ed32edf", "8eb2af6d-fb4c4814-b9cc-4c0e3ed32edf"),
        ("a-b", "a_b"),
        ("a-b", "ab"),
        ("a.b", "a_b"),
        ("a.b", "ab"),
        ("plain", "p-l-a-i-n"),
        ("{x}", "x"),
    ]
    assert counted(database).calls == 16


def test_punctuation_is_every_sign_that_is_no_letter_and_no_digit(writer: Writer, database: Database) -> None:
    signs = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    marks = [sign for sign in signs if not sign.isalnum()]
    others = [sign for sign in signs if sign.isalnum() and not sign.isupper()]
    assert len(marks) == 32
    placed_and_reported(writer, ["q"], [f"q{sign}" for sign in marks + others])

    assert twins(database) == [("q", f"q{mark}") for mark in sorted(marks)]


@pytest.mark.parametrize(
    ("placed", "reported"), [(["a-b", "ab"], ["ab"]), (["a-b"], ["a-b", "ab", "a-b"]), (["a-b", "ab"], [])]
)
def test_a_call_that_was_registered_and_reported_is_no_twin(
    writer: Writer, database: Database, placed: list[str], reported: list[str]
) -> None:
    placed_and_reported(writer, placed, reported)

    assert twins(database) == []


def test_what_is_wanted_chooses_among_the_registered_twins(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a-b", placed_at=at(0), campaign="tet")], NOW)
    placed_and_reported(writer, ["c-d"], ["ab", "cd"])

    assert twins(database, CallFilter(campaign="tet", until=at(1))) == [("a-b", "ab")]
    assert twins(database, CallFilter(since=at(1))) == []


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_twins_are_sought_with_an_index_made_for_it_on_sqlite(database: Database, writer: Writer) -> None:
    """Each call compared with each other one would take days for millions."""
    placed_and_reported(writer, (f"a-{number}" for number in range(1000)), (f"a{number}" for number in range(1000)))
    steps = 0

    def see() -> int:
        nonlocal steps
        steps += 1
        return steps > 2000

    with database.snapshot(limited=False) as connection:
        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(see, 1000)
        try:
            assert len(list(Ledger(connection, CallFilter(), NOW).twins())) == 1000
        finally:
            raw.set_progress_handler(None, 0)


# The command


def a_little_of_everything(writer: Writer) -> None:
    """A call of each kind, and twins."""
    now = datetime.now(UTC)
    writer.register([Registration(reference_id="within", placed_at=now - timedelta(minutes=9), campaign="tet")], now)
    writer.register([Registration(reference_id="be-yond", placed_at=now - timedelta(minutes=11), campaign="tet")], now)
    writer.register([Registration(reference_id="given-up", placed_at=now - timedelta(days=4))], now)
    writer.conclude([LookupAnswer("given-up", "104")], now, give_up=GIVE_UP)
    when: dict[str, Any] = {"received_at": now}
    writer.record([callback("beyond", call_status="BUSY", **when), lookup("lost", call_status="BUSY", **when)], now)
    writer.record([callback("odd", call_status="BUSY", **when)], now)
    writer.record([callback("odd", call_status="ANSWERED", received_at=now + timedelta(seconds=1))], now)


@SET
def test_the_command_says_the_same_to_people_and_programs(writer: Writer) -> None:
    a_little_of_everything(writer)

    as_json, shown = json_of(), listed()

    assert as_json == {
        "calls": 6,
        "settled_by_callback": 2,
        "settled_by_lookup": 1,
        "gave_up": 1,
        "missing_within_grace": 1,
        "missing_beyond_grace": 1,
        "confirmed": 1,
        "conflict": 1,
        "never_registered": 3,
        "lost_and_recovered": 1,
        "answered": 1,
        "unanswered": 0,
        "other": 2,
        "rejected": 0,
        "delivered": 0,
        "unknown": 0,
        "twins": [["be-yond", "beyond"]],
    }
    lines = [re.sub(r"\s+", " ", line).strip() for line in shown.splitlines()]
    for words in (
        "calls 6",
        "settled by callback 2",
        "settled by lookup 1",
        "given up 1",
        "missing 2",
        "within grace 1",
        "beyond grace 1",
        "confirmed by eSMS 1",
        "in conflict 1",
        "never registered 3",
        "answered 1",
        "other CallStatus 2",
        "answered share 33.3%",
        "callbacks lost and recovered: 1 (settled by lookup, and the callback never came)",
        "be-yond beyond",
        "twins: 1; they are equal but for punctuation, and are not merged",
    ):
        assert words in lines


@SET
def test_the_command_goes_by_the_grace_that_is_set(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    a_little_of_everything(writer)
    monkeypatch.setenv("RECONCILE_GRACE", "1h")

    assert (json_of()["missing_within_grace"], json_of()["missing_beyond_grace"]) == (2, 0)


@SET
def test_campaigns_are_counted_in_their_order_and_last_the_calls_without_one(writer: Writer) -> None:
    names = ["zeta", "Tết", "[red]tết[/red]\x1b[2J", "a" * 200, None, "zeta"]
    writer.register(
        [Registration(reference_id=f"call-{place}", campaign=name) for place, name in enumerate(names)], NOW
    )

    groups, shown = json_of("--by", "campaign"), listed("--by", "campaign")

    assert [group["campaign"] for group in groups] == ["Tết", "[red]tết[/red]\x1b[2J", "a" * 200, "zeta", None]
    assert [group["calls"] for group in groups] == [1, 1, 1, 2, 1]
    assert list(groups[0]) == ["campaign", *asdict(counted_nothing())]
    assert re.search(r"^ +zeta +2 .*\n +\(none\) +1 ", shown, re.MULTILINE)
    assert "[red]tết[/red]\\x1b[2J" in shown
    assert "\x1b" not in shown
    assert re.search(r"^ +all +6 ", shown, re.MULTILINE)
    assert json_of("--by", "campaign", "--campaign", "zeta") == [groups[3]]


def counted_nothing() -> Counts:
    return Counts(*[0] * 16)


@SET
def test_no_figure_of_a_table_is_cut_off(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    a_little_of_everything(writer)

    shown = listed("--by", "day")

    assert "…" not in shown
    assert all(
        re.search(rf"^ *{group['day']} +{group['calls']} ", shown, re.MULTILINE) for group in json_of("--by", "day")
    )


@SET
def test_an_empty_database_is_named_in_words() -> None:
    assert json_of() == asdict(counted_nothing()) | {"twins": []}
    assert json_of("--by", "day") == json_of("--by", "campaign") == []
    assert listed().startswith("No calls are stored yet: `esms-calls register` ")
    assert listed("--campaign", "tet") == "No such calls are stored: see --since, --until and --campaign.\n"
    assert listed("--by", "day") == "No such calls are stored.\n"


# What was expected


@SET
def test_unknown_ids_of_a_list_are_named_once_in_its_order(writer: Writer, tmp_path: Path) -> None:
    placed_and_reported(writer, ["known"], ["reported"])
    file = tmp_path / "placed.txt"
    file.write_bytes("\ufeffZulu\r\n\r\n KNOWN \nreported\n  \nalpha\nzulu\nALPHA \nmike".encode())

    as_json, shown = json_of("--expect", file, code=1), run("--expect", file)

    assert as_json["never_heard_of"] == ["zulu", "alpha", "mike"]
    assert (as_json["calls"], as_json["twins"]) == (2, [])
    assert shown.exit_code == 1
    assert "Unknown ids:\n  zulu\n  alpha\n  mike\nunknown: 3; 7 ids read, 0 bad lines\n" in shown.stdout
    assert json_of("--expect", "-", stdin=b"\xef\xbb\xbfreported\nknown")["never_heard_of"] == []
    empty = run("--json", "--expect", "-", stdin="")
    assert (empty.exit_code, json.loads(empty.stdout)["never_heard_of"]) == (0, [])
    assert "The list is empty: it names no call." in empty.stderr
    assert "never_heard_of" not in json_of()


@SET
def test_the_list_is_compared_with_all_calls_whichever_are_counted(writer: Writer) -> None:
    placed_and_reported(writer, ["known"], [])

    found = json_of("--expect", "-", "--campaign", "tet", "--since", "2030-01-01", stdin="known\nnew\n", code=1)

    assert (found["calls"], found["never_heard_of"]) == (0, ["new"])


@SET
def test_the_list_may_be_the_csv_that_was_registered_and_bad_lines_are_named(writer: Writer) -> None:
    placed_and_reported(writer, ["known"], [])

    result = run("--json", "--expect", "-", stdin="phone;reference_id\n1;known\n2;x y\n3;new\n")

    assert (result.exit_code, json.loads(result.stdout)["never_heard_of"]) == (1, ["new"])
    assert "line 3: reference_id: must have 1 to 128 visible ASCII characters" in result.stderr
    assert run("--json", "--expect", "-", stdin="known\nx y\n").exit_code == 1
    headless = run("--json", "--expect", "-", stdin="known,849\n")
    assert (headless.exit_code, headless.stdout) == (2, "")
    assert "line 1 holds a comma, and names no column reference_id" in headless.stderr


@SET
def test_a_list_of_more_than_is_compared_at_once_is_compared_whole(writer: Writer) -> None:
    placed_and_reported(writer, (f"call-{number}" for number in range(0, 2200, 2)), [])

    found = json_of(
        "--expect", "-", stdin="".join(f"CALL-{number}\n" for number in [*range(2200), *range(2200)]), code=1
    )

    assert found["never_heard_of"] == [f"call-{number}" for number in range(1, 2200, 2)]
