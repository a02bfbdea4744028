"""What is written, and that it is the same whatever is written first, twice, late or by hand."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from commands import ON_POSTGRESQL
from constants import sized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import NOW, answer, at, by_reports, callback, change_by_hand, fold_of, lookup, stored_call, stored_reports
from sqlalchemy import func, select, update

from webapp.calls import rule
from webapp.calls.report import FIELDS, StatusReport
from webapp.calls.rule import Call, Registration
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.storage import claims
from webapp.storage import rejected as rejecting
from webapp.storage import writer as writing
from webapp.storage.claims import Due
from webapp.storage.models import calls, reconcile_runs, rejected_callbacks, status_reports
from webapp.storage.rejected import Rejected
from webapp.storage.runs import Run, save_run, start_run
from webapp.storage.writer import Registered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

GIVE_UP = timedelta(hours=72)
MINUTE = 60
HOUR = 3600
ANY_TIME = Due(placed_until=at(1000 * HOUR), due_until=at(1000 * HOUR))


def count(database: Database, table: Table) -> int:
    with database.snapshot(limited=False) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def columns(database: Database, reference_id: str, *names: str) -> tuple[Any, ...]:
    with database.snapshot(limited=False) as connection:
        query = select(*[calls.c[name] for name in names]).where(calls.c.reference_id == reference_id)
        return tuple(connection.execute(query).one())


def is_about(moment: datetime | None, pause: timedelta, since: datetime) -> bool:
    """Whether a look-up was planned this long after ``since``, give or take 10 %."""
    return moment is not None and 0.9 * pause <= moment - since <= 1.1 * pause


# Reports


def test_a_final_callback_settles_a_call_that_was_not_known(writer: Writer, database: Database) -> None:
    report = callback("a", 5, call_status="ANSWERED", call_duration=12, ivr="1", price=Decimal("450.0000"), cid="842")

    assert writer.record([report], at(7)) == ["settled"]

    assert stored_call(database, "a") == Call(
        reference_id="a",
        placed_at=at(5),
        call_status="ANSWERED",
        call_duration=12,
        ivr="1",
        price=Decimal("450.0000"),
        cid="842",
        callback_at=at(5),
        settled_at=at(5),
        settled_by="callback",
        last_reported_at=at(5),
        report_count=1,
        kind="voice",
        esms_id="a",
    )
    assert stored_reports(database, "a") == [report]


def test_each_report_has_the_effect_that_it_had_when_it_was_stored(writer: Writer, database: Database) -> None:
    delivered = [
        (callback("a", 1, send_status=7), "progressed"),
        (callback("a", 2, send_status=7), "duplicate"),
        (callback("a", 3, call_status="ANSWERED", call_duration=12), "settled"),
        (callback("a", 4, send_status=2, ivr="9"), "stale"),
        (callback("a", 5, call_status="ANSWERED", price=Decimal("450.0000")), "enriched"),
        (callback("a", 6, call_status="ANSWERED"), "duplicate"),
        (callback("a", 7, call_status="NOANSWERED"), "conflict"),
        (lookup("a", 8, call_status="ANSWERED"), "corrected"),
        (lookup("a", 9, call_status="ANSWERED"), "confirmed"),
        (callback("a", 10, call_status="NOANSWERED"), "conflict"),
    ]
    for report, effect in delivered:
        assert writer.record([report], NOW) == [effect]
    row = stored_call(database, "a")

    assert writer.record([report for report, _ in delivered], at(99)) == [effect for _, effect in delivered]

    assert stored_call(database, "a") == row
    with database.snapshot(limited=False) as connection:
        kept = {row.id: row.effect for row in connection.execute(select(status_reports))}
    assert kept == {report.id: effect for report, effect in delivered}


def test_the_effects_come_in_the_order_in_which_the_reports_were_given(writer: Writer) -> None:
    settles, progresses = callback("a", 2, call_status="BUSY"), callback("a", 1, send_status=7)

    assert writer.record([settles, progresses], NOW) == ["settled", "progressed"]


@pytest.mark.parametrize("batches", [[[0, 0]], [[0], [0]], [[0, 1], [1, 0]], [[1, 0, 1, 0]], [[1], [0, 0], [1]]])
def test_storing_the_same_id_again_does_nothing(writer: Writer, database: Database, batches: list[list[int]]) -> None:
    reports = [callback("a", 1, call_status="BUSY"), callback("a", 2, call_status="ANSWERED")]
    for batch in batches:
        writer.record([reports[place] for place in batch], NOW)

    delivered = {place for batch in batches for place in batch}
    assert stored_call(database, "a").report_count == count(database, status_reports) == len(delivered)
    assert by_reports(stored_call(database, "a")) == fold_of(reports[place] for place in delivered)


def test_the_same_id_again_leaves_the_row_as_it_was_last_written(writer: Writer, database: Database) -> None:
    report = callback("a", 1, call_status="BUSY")
    writer.record([report], at(1))
    writer.record([report, report], at(50))

    assert columns(database, "a", "created_at", "updated_at") == (at(1), at(1))


def test_the_row_says_when_it_was_made_and_last_written_by_the_clock_that_it_is_given(
    writer: Writer, database: Database
) -> None:
    writer.record([callback("a", 1, send_status=7)], at(2))
    writer.record([callback("a", 30, send_status=7)], at(31))

    assert columns(database, "a", "created_at", "updated_at") == (at(2), at(31))


def test_no_reports_are_no_work(writer: Writer, database: Database) -> None:
    assert writer.record([], NOW) == []
    assert count(database, calls) == 0


FOUR_REPORTS: tuple[dict[str, Any], ...] = (
    {"seconds": 1, "send_status": 7, "ivr": "9", "cid": "842"},
    {"seconds": 2, "call_status": "ANSWERED", "call_duration": 3},
    {"seconds": 3, "call_status": "NOANSWERED", "price": Decimal("450.0000")},
    {"seconds": 4, "call_status": "ANSWERED", "source": "lookup", "lookup_code": "100"},
)


@pytest.mark.parametrize("at_once", [True, False], ids=["one batch", "one by one"])
def test_whatever_the_order_in_which_reports_are_written_the_row_ends_the_same(
    writer: Writer, database: Database, *, at_once: bool
) -> None:
    for number, order in enumerate(permutations(FOUR_REPORTS)):
        reports = [callback(f"call-{number}", **said) for said in order]
        for batch in [reports] if at_once else [[report] for report in reports]:
            writer.record(batch, NOW)

        assert by_reports(stored_call(database, f"call-{number}")) == fold_of(reports)
        assert stored_reports(database, f"call-{number}") == sorted(reports, key=lambda report: report.order)


def test_a_batch_may_be_about_many_calls(writer: Writer, database: Database) -> None:
    reports = {name: [callback(name, 1, send_status=7), callback(name, 2, call_status=name.upper())] for name in "dbca"}
    mixed = [reports[name][place] for place in (1, 0) for name in "dbca"]

    assert writer.record(mixed, NOW) == ["settled"] * 4 + ["progressed"] * 4

    for name, mine in reports.items():
        assert stored_call(database, name) == fold_of(mine)


def test_a_late_progress_report_changes_nothing_in_a_settled_call_but_counts(
    writer: Writer, database: Database
) -> None:
    final, late = callback("a", 10, call_status="BUSY"), callback("a", 5, send_status=7, call_duration=3)
    writer.record([final], at(10))
    writer.record([late], at(20))

    call = stored_call(database, "a")
    assert call == fold_of([final, late])
    assert (call.send_status, call.call_duration, call.report_count) == (7, 3, 2)
    assert (call.placed_at, call.last_reported_at) == (at(5), at(10))


def test_a_late_final_callback_is_the_one_that_settled_the_call(writer: Writer, database: Database) -> None:
    writer.record([lookup("a", 10, call_status="BUSY")], at(10))

    assert writer.record([callback("a", 5, call_status="BUSY", price=Decimal("450.0000"))], at(20)) == ["enriched"]

    call = stored_call(database, "a")
    assert (call.settled_at, call.settled_by, call.callback_at, call.confirmed_at) == (at(5), "callback", at(5), at(10))
    assert (call.price, call.conflict) == (Decimal("450.0000"), False)


def test_of_two_reports_of_one_moment_the_one_with_the_greater_id_is_the_newer(
    writer: Writer, database: Database
) -> None:
    low, high = uuid.UUID(int=1 << 100), uuid.UUID(int=(1 << 127) + 1)
    for name, order in {"a": (low, high), "b": (high, low)}.items():
        for number in order:
            unique = uuid.UUID(int=number.int + ord(name))
            writer.record(
                [callback(name, 1, id=unique, call_status="X", phone="high" if number is high else "low")], NOW
            )

        assert stored_call(database, name).phone == "high"


def test_late_reports_of_many_calls_in_one_batch_each_find_their_own_history(
    writer: Writer, database: Database
) -> None:
    names = [f"call-{number}" for number in range(30)]
    early = [callback(name, 1, call_status="BUSY", ivr="1") for name in names]
    middle = [callback(name, 2, call_status="ANSWERED") for name in names]
    newest = [lookup(name, 3, call_status="BUSY") for name in names]
    writer.record(newest, NOW)
    writer.record([*middle, *early], NOW)

    for place, name in enumerate(names):
        assert by_reports(stored_call(database, name)) == fold_of([early[place], middle[place], newest[place]])


LARGEST: dict[str, Any] = {
    "call_status": "😀" * 200,
    "call_duration": 2_147_483_647,
    "ivr": "*#" * 100,
    "send_status": 32_767,
    "sent_result": 32_767,
    "price": Decimal("9999999999.9999"),
    "cid": "\U0010ffff" * 200,
    "request_id": "ế" * 200,
    "phone": "'\"\\%\n\t" + "€" * 194,
    "unread": ",".join(["CallStatus", "CallDuration", "Ivr", "SendStatus", "SentResult", "Price", "CID"] * 5),
    "payload": parameters.storable_json({"\0": "\udc80" + "😀" * 65_536}),
    "esms_id": None,
    "remote_addr": "2001:0db8:0000:0000:0000:ff00:0042:8329%eth0",
}
SMALLEST: dict[str, Any] = {
    "call_status": "0",
    "call_duration": 0,
    "ivr": "007",
    "send_status": 0,
    "sent_result": 0,
    "price": Decimal("0.0001"),
    "cid": "-",
    "request_id": " ",
    "phone": "0",
}


@pytest.mark.parametrize("said", [LARGEST, SMALLEST], ids=["largest", "smallest"])
@pytest.mark.parametrize("reference_id", ["~" * 128, "!"])
def test_every_value_at_its_bound_is_read_back_exactly(
    writer: Writer, database: Database, said: dict[str, Any], reference_id: str
) -> None:
    report = lookup(reference_id, 0.000001, **said, lookup_code="9" * 200)

    writer.record([report], NOW)

    assert stored_reports(database, reference_id) == [report]
    call = stored_call(database, reference_id)
    assert {name: getattr(call, name) for name in FIELDS} == {name: said[name] for name in FIELDS}
    assert (call.placed_at, call.last_reported_at) == (at(0.000001), at(0.000001))


def test_a_price_is_exact_to_the_last_of_its_four_decimals(writer: Writer, database: Database) -> None:
    chance = random.Random(4)  # noqa: S311 - no secret
    prices = [Decimal(chance.randrange(10**14)).scaleb(-4) for _ in range(300)] + [Decimal(0)]
    writer.record([callback("a", second, price=price) for second, price in enumerate(prices)], NOW)

    assert [str(report.price) for report in stored_reports(database, "a")] == [f"{price:.4f}" for price in prices]


def test_a_backlog_of_thousands_is_one_batch(writer: Writer, database: Database) -> None:
    reports = [callback(f"call-{number % 1500}", number, call_status="BUSY") for number in range(3000)]

    assert Counter(writer.record(reports, NOW)) == {"settled": 1500, "duplicate": 1500}
    assert count(database, calls) == 1500


# Registrations


def test_registering_counts_the_calls_that_were_not_registered_before(writer: Writer) -> None:
    writer.record([callback("reported", 1, call_status="BUSY")], NOW)

    assert writer.register(
        [Registration(reference_id=name) for name in ("b", "reported", "a", "b")], NOW
    ) == Registered(3, 1, 0)
    assert writer.register([Registration(reference_id=name) for name in ("a", "c")], NOW) == Registered(1, 1, 0)
    assert writer.register([], NOW) == Registered(0, 0, 0)


def test_newer_words_of_a_registration_replace_older_ones_and_blank_ones_replace_nothing(
    writer: Writer, database: Database
) -> None:
    writer.register(
        [Registration(reference_id="a", request_id="r1", phone="84901", campaign="one", placed_at=at(-60))], at(1)
    )
    writer.register([Registration(reference_id="a", phone="84902")], at(2))
    writer.register([Registration(reference_id="a", campaign="two")], at(3))

    call = stored_call(database, "a")
    assert (call.request_id, call.phone, call.campaign, call.placed_at) == ("r1", "84902", "two", at(-60))
    assert call.registered_at == at(1)
    assert columns(database, "a", "created_at", "updated_at") == (at(1), at(3))


def test_of_one_call_twice_in_one_list_the_later_words_count(writer: Writer, database: Database) -> None:
    words = [Registration(reference_id="a", phone="1", campaign="x"), Registration(reference_id="a", phone="2")]

    assert writer.register(words, NOW) == Registered(1, 1, 1)
    assert (stored_call(database, "a").phone, stored_call(database, "a").campaign) == ("2", "x")


@pytest.mark.parametrize("registered_first", [True, False])
@pytest.mark.parametrize("folded_anew", [True, False])
def test_what_was_registered_outranks_what_reports_say(
    writer: Writer, database: Database, *, registered_first: bool, folded_anew: bool
) -> None:
    registration = Registration(reference_id="a", phone="mine", request_id="mine", placed_at=at(500))
    if registered_first:
        writer.register([registration], at(0))
    writer.record([callback("a", 60, call_status="BUSY", phone="theirs", request_id="theirs", cid="842")], NOW)
    if not registered_first:
        writer.register([registration], at(70))
    writer.record([callback("a", 30 if folded_anew else 90, send_status=7, phone="theirs again")], NOW)

    call = stored_call(database, "a")
    assert (call.phone, call.request_id, call.placed_at, call.cid) == ("mine", "mine", at(500), "842")
    assert refold(writer, ["a"], NOW, check_only=True) == []


def test_registering_changes_nothing_else_of_a_call(writer: Writer, database: Database) -> None:
    writer.record([callback("a", 1, call_status="BUSY"), callback("a", 2, call_status="ANSWERED")], at(2))
    before = stored_call(database, "a")
    assert before.conflict

    writer.register([Registration(reference_id="a", campaign="tet")], at(9))

    assert stored_call(database, "a") == replace(before, campaign="tet", registered_at=at(9))


def test_a_call_was_placed_at_the_earlier_of_its_registration_and_its_first_report_unless_registered_otherwise(
    writer: Writer, database: Database
) -> None:
    writer.register([Registration(reference_id="registered"), Registration(reference_id="late")], at(10))
    writer.record([callback("registered", 20, send_status=7), callback("late", 5, send_status=7)], NOW)
    writer.record([callback("reported", 30, send_status=7)], NOW)
    writer.register([Registration(reference_id="reported")], at(40))

    placed = {name: stored_call(database, name).placed_at for name in ("registered", "late", "reported")}
    assert placed == {"registered": at(10), "late": at(5), "reported": at(30)}


@ON_POSTGRESQL
def test_ten_thousand_calls_are_registered_at_once(writer: Writer, database: Database) -> None:
    words = [Registration(reference_id=f"call-{number}", phone=str(number)) for number in range(10_000)]

    assert writer.register(words, NOW) == Registered(10_000, 0, 0)
    assert writer.register(words[:1100][::-1], NOW) == Registered(0, 1100, 0)
    assert count(database, calls) == 10_000


# What look-ups bring


def conclude(writer: Writer, seconds: float, *answers: LookupAnswer) -> list[str]:
    return list(writer.conclude(answers, at(seconds), give_up=GIVE_UP))


def test_a_final_look_up_settles_a_missing_call(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a")], NOW)

    assert conclude(writer, 700, answer(lookup("a", 699, call_status="BUSY"))) == ["settled"]

    call = stored_call(database, "a")
    assert (call.call_status, call.settled_by, call.settled_at, call.confirmed_at) == (
        "BUSY",
        "lookup",
        at(699),
        at(699),
    )
    assert (call.lookup_count, call.last_lookup_code, call.next_lookup_at) == (1, "100", None)


@pytest.mark.parametrize(
    ("looked_up", "conclusion"),
    [
        (answer(lookup("a", 700, send_status=7)), "pending"),
        (answer(lookup("a", 700)), "pending"),
        (LookupAnswer("a", "104"), "not_found"),
        (LookupAnswer("a", "105"), "not_found"),
        (LookupAnswer("a", "777"), "failed"),
        (LookupAnswer("a", "unreadable"), "failed"),
        (LookupAnswer("a", "wrong-reference"), "failed"),
        (LookupAnswer("a", "timeout"), "failed"),
        (LookupAnswer("a", "http-500"), "failed"),
        (LookupAnswer("a", "x" * 200), "failed"),
    ],
)
def test_a_look_up_that_is_not_final_is_charged_and_the_call_asked_about_again_in_five_minutes(
    writer: Writer, database: Database, looked_up: LookupAnswer, conclusion: str
) -> None:
    writer.register([Registration(reference_id="a")], NOW)
    claims.claim(database, ANY_TIME, 1, now=at(700), until=at(800))

    assert conclude(writer, 701, looked_up) == [conclusion]

    call = stored_call(database, "a")
    assert (call.settled_at, call.lookup_count, call.last_lookup_code) == (None, 1, looked_up.code)
    assert is_about(call.next_lookup_at, timedelta(minutes=5), at(701))
    assert columns(database, "a", "claimed_until") == (None,)


def test_a_call_that_was_unregistered_while_esms_was_asked_is_stored_again_only_with_a_report(
    writer: Writer, database: Database
) -> None:
    writer.register([Registration(reference_id=name) for name in "abc"], NOW)
    writer.unregister(["a", "b"], NOW)
    looked_up = answer(lookup("b", 1, call_status="BUSY"))

    concluded = conclude(
        writer, 1, LookupAnswer("a", "104"), looked_up, LookupAnswer("a", "timeout"), LookupAnswer("c", "104")
    )

    assert concluded == ["not_found", "settled", "failed", "not_found"]
    assert count(database, calls) == 2
    assert stored_call(database, "b").settled_at == at(1)
    assert [stored_call(database, name).lookup_count for name in "bc"] == [1, 1]


def test_a_look_up_without_a_report_leaves_no_history(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a")], NOW)
    conclude(writer, 700, LookupAnswer("a", "104"), LookupAnswer("a", "timeout"))

    assert count(database, status_reports) == 0
    assert stored_call(database, "a").lookup_count == 2


def test_the_pause_doubles_from_five_minutes_to_six_hours(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(0))], NOW)
    pauses = []
    for number in range(12):
        conclude(writer, number, LookupAnswer("a", "104"))
        planned = stored_call(database, "a").next_lookup_at
        assert planned is not None
        pauses.append((planned - at(number)) / timedelta(minutes=5))

    for pause, expected in zip(pauses, [1, 2, 4, 8, 16, 32, 64, 72, 72, 72, 72, 72], strict=True):
        assert 0.9 * expected <= pause <= 1.1 * expected


def test_calls_that_were_asked_together_do_not_come_due_together(writer: Writer, database: Database) -> None:
    names = [f"call-{number}" for number in range(50)]
    writer.register([Registration(reference_id=name) for name in names], NOW)
    conclude(writer, 0, *[LookupAnswer(name, "104") for name in names])

    planned = {stored_call(database, name).next_lookup_at for name in names}
    assert len(planned) > 40
    assert all(is_about(moment, timedelta(minutes=5), NOW) for moment in planned)


def test_every_conflict_is_asked_about_after_five_minutes_and_the_doubling_starts_anew(
    writer: Writer, database: Database
) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(0))], NOW)
    for number in range(6):
        conclude(writer, number, LookupAnswer("a", "104"))
    writer.record([callback("a", 10, call_status="BUSY"), callback("a", 11, call_status="ANSWERED")], at(12))

    assert stored_call(database, "a").next_lookup_at == at(12 + 300)

    pauses = []
    for number in (1000, 2000):
        assert conclude(writer, number, LookupAnswer("a", "104")) == ["not_found"]
        planned = stored_call(database, "a").next_lookup_at
        assert planned is not None
        pauses.append(planned - at(number))
    assert 0.9 * timedelta(minutes=5) <= pauses[0] <= 1.1 * timedelta(minutes=5)
    assert 0.9 * timedelta(minutes=10) <= pauses[1] <= 1.1 * timedelta(minutes=10)
    assert stored_call(database, "a").lookup_count == 8

    assert conclude(writer, 3000, answer(lookup("a", 3000, call_status="BUSY"))) == ["settled"]
    decided = stored_call(database, "a")
    assert (decided.conflict, decided.next_lookup_at, decided.call_status) == (False, None, "BUSY")

    writer.record([callback("a", 4000, call_status="ANSWERED")], at(4000))
    again = stored_call(database, "a")
    assert (again.conflict, again.next_lookup_at, again.call_status) == (True, at(4300), "BUSY")
    conclude(writer, 5000, LookupAnswer("a", "104"))
    assert is_about(stored_call(database, "a").next_lookup_at, timedelta(minutes=5), at(5000))


def test_further_disagreement_does_not_postpone_the_look_up(writer: Writer, database: Database) -> None:
    writer.record([callback("a", 0, call_status="BUSY"), callback("a", 1, call_status="ANSWERED")], at(1))
    writer.record([callback("a", 100, call_status="BUSY")], at(100))

    assert stored_call(database, "a").next_lookup_at == at(301)


ANSWERS_THAT_ARE_NOT_FINAL = [
    answer(lookup("a", 0, send_status=7)),
    LookupAnswer("a", "104"),
    LookupAnswer("a", "777"),
    LookupAnswer("a", "unreadable"),
    LookupAnswer("a", "wrong-reference"),
]


@pytest.mark.parametrize("looked_up", ANSWERS_THAT_ARE_NOT_FINAL, ids=lambda looked_up: looked_up.code)
def test_a_missing_call_is_given_up_once_esms_does_not_decide_after_all_that_time(
    writer: Writer, database: Database, looked_up: LookupAnswer
) -> None:
    writer.register([Registration(reference_id="a")], NOW)
    last = 72 * HOUR

    before = conclude(writer, last - 1, LookupAnswer("a", "104"))
    assert (before, stored_call(database, "a").gave_up_at) == (["not_found"], None)
    fresh = (
        replace(looked_up, report=replace(looked_up.report, id=parameters.new_id())) if looked_up.report else looked_up
    )
    assert conclude(writer, last, fresh) == ["gave_up"]

    call = stored_call(database, "a")
    assert (call.gave_up_at, call.next_lookup_at, call.lookup_count) == (at(last), None, 2)
    assert claims.claim(database, ANY_TIME, 5, now=at(2 * last), until=at(3 * last)) == []


@pytest.mark.parametrize(
    "code", ["timeout", "unreachable", "http-500", "http-503", "http-429", "http-404", "http-302", "160"]
)
def test_a_call_is_not_given_up_on_no_answer_an_http_error_a_redirect_or_160(
    writer: Writer, database: Database, code: str
) -> None:
    writer.register([Registration(reference_id="a")], NOW)

    assert conclude(writer, 100 * HOUR, LookupAnswer("a", code)) == ["failed"]

    call = stored_call(database, "a")
    assert call.gave_up_at is None
    assert is_about(call.next_lookup_at, timedelta(minutes=5), at(100 * HOUR))


def test_a_final_answer_settles_a_call_however_old_it_is(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a")], NOW)

    assert conclude(writer, 100 * HOUR, answer(lookup("a", 100 * HOUR, call_status="BUSY"))) == ["settled"]
    assert stored_call(database, "a").gave_up_at is None


@pytest.mark.parametrize("report", [callback("a", 200 * HOUR, call_status="BUSY"), lookup("a", 1, call_status="BUSY")])
def test_whatever_settles_a_call_that_was_given_up_takes_that_back(
    writer: Writer, database: Database, report: StatusReport
) -> None:
    writer.register([Registration(reference_id="a")], NOW)
    conclude(writer, 100 * HOUR, LookupAnswer("a", "104"))
    assert stored_call(database, "a").gave_up_at

    assert writer.record([report], at(200 * HOUR)) == ["settled"]
    assert (stored_call(database, "a").gave_up_at, stored_call(database, "a").next_lookup_at) == (None, None)


def test_a_conflict_that_esms_leaves_undecided_stays_flagged_and_is_not_asked_about_again(
    writer: Writer, database: Database
) -> None:
    writer.record([callback("a", 0, call_status="BUSY"), callback("a", 1, call_status="ANSWERED")], at(1))

    assert conclude(writer, 72 * HOUR, LookupAnswer("a", "timeout")) == ["failed"]
    assert is_about(stored_call(database, "a").next_lookup_at, timedelta(minutes=5), at(72 * HOUR))
    assert conclude(writer, 73 * HOUR, LookupAnswer("a", "104")) == ["not_found"]

    call = stored_call(database, "a")
    assert (call.conflict, call.next_lookup_at, call.gave_up_at) == (True, None, None)
    writer.record([callback("a", 74 * HOUR, call_status="BUSY")], at(74 * HOUR))
    assert stored_call(database, "a").next_lookup_at is None


def test_a_conflict_of_a_call_placed_at_the_end_of_time_can_be_concluded(writer: Writer, database: Database) -> None:
    far = NOW.replace(year=9999, month=12, day=31)
    writer.register([Registration(reference_id="a", placed_at=far)], NOW)
    writer.record([callback("a", 0, call_status="BUSY"), callback("a", 1, call_status="ANSWERED")], at(1))

    assert conclude(writer, 400, LookupAnswer("a", "104")) == ["not_found"]
    assert stored_call(database, "a").placed_at == far


def test_a_look_up_that_is_older_than_the_newest_callback_takes_its_place_in_the_order(
    writer: Writer, database: Database
) -> None:
    asked = lookup("a", 10, call_status="ANSWERED")
    came = callback("a", 11, call_status="BUSY")
    writer.record([came], at(11))

    assert conclude(writer, 12, answer(asked)) == ["settled"]

    call = stored_call(database, "a")
    assert (call.settled_by, call.call_status, call.conflict) == ("lookup", "ANSWERED", True)
    assert by_reports(call) == fold_of([came, asked])
    assert (call.next_lookup_at, call.lookup_count) == (at(12 + 300), 1)


# Which calls are asked about


def claim(database: Database, seconds: float, limit: int = 100, *, grace: float = 600) -> list[str]:
    due = Due(placed_until=at(seconds - grace), due_until=at(seconds))
    return [
        call.reference_id for call in claims.claim(database, due, limit, now=at(seconds), until=at(seconds + MINUTE))
    ]


def test_calls_never_asked_about_come_first_and_then_the_longest_due(writer: Writer, database: Database) -> None:
    for name, placed in {"asked-1": 0, "new-2": 2, "asked-2": 0, "new-1": 1, "conflict": 0}.items():
        writer.register([Registration(reference_id=name, placed_at=at(placed))], NOW)
    conclude(writer, 100, LookupAnswer("asked-1", "104"))
    conclude(writer, 300, LookupAnswer("asked-2", "104"))
    writer.record([callback("conflict", 0, call_status="X"), callback("conflict", 1, call_status="Y")], at(3))
    expected = ["new-1", "new-2", "conflict", "asked-1", "asked-2"]

    assert claim(database, HOUR) == expected
    claims.release(database, dict.fromkeys(expected, at(HOUR + MINUTE)))
    assert [claim(database, HOUR, limit=1) for _ in range(6)] == [[name] for name in expected] + [[]]


def test_a_call_is_due_only_once_its_grace_is_over(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(0))], NOW)

    assert claim(database, 599.999999) == []
    assert claim(database, 600) == ["a"]


def test_a_call_placed_in_the_future_is_due_a_grace_after_that(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(10 * HOUR))], NOW)

    assert claim(database, HOUR) == []
    assert claim(database, 10 * HOUR + 600) == ["a"]


def test_a_call_is_not_due_before_its_planned_look_up(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(-HOUR))], NOW)
    conclude(writer, 0, LookupAnswer("a", "104"))
    planned = stored_call(database, "a").next_lookup_at
    assert planned is not None
    seconds = (planned - NOW).total_seconds()

    assert claim(database, seconds - 0.001) == []
    assert claim(database, seconds) == ["a"]


def test_a_call_in_conflict_is_due_when_planned_without_any_grace(writer: Writer, database: Database) -> None:
    writer.record([callback("a", 0, call_status="BUSY"), callback("a", 1, call_status="ANSWERED")], at(1))

    assert claim(database, 300.9) == []
    assert claim(database, 301, grace=1000 * HOUR) == ["a"]


def test_settled_calls_are_not_due(writer: Writer, database: Database) -> None:
    writer.record([callback("a", 0, call_status="BUSY"), lookup("b", 0, call_status="BUSY")], NOW)

    assert claim(database, 1000 * HOUR) == []


def test_a_claimed_call_is_free_again_when_its_lease_is_over_or_it_is_released(
    writer: Writer, database: Database
) -> None:
    writer.register([Registration(reference_id=name, placed_at=at(-HOUR)) for name in ("a", "b")], NOW)

    assert claim(database, 0) == ["a", "b"]
    assert claim(database, 59.9) == []
    claims.release(database, {"b": at(MINUTE)})
    assert claim(database, 59.9) == ["b"]
    assert claim(database, 60) == ["a"]
    assert claim(database, 300) == ["a", "b"]


def test_releasing_leaves_the_call_due_as_it_was(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id="a", placed_at=at(-HOUR))], NOW)
    before = columns(database, "a", *calls.c.keys())
    claim(database, 0)
    assert columns(database, "a", *calls.c.keys()) != before
    claims.release(database, {"a": at(MINUTE), "unknown": at(MINUTE)})
    claims.release(database, {})

    assert columns(database, "a", *calls.c.keys()) == before


def test_a_lease_is_renewed_unless_another_run_has_claimed_the_call(writer: Writer, database: Database) -> None:
    writer.register([Registration(reference_id=name, placed_at=at(-HOUR)) for name in ("a", "b")], NOW)
    assert claim(database, 0) == ["a", "b"]
    lost, mine = {"a": at(MINUTE)}, {"a": at(MINUTE), "b": at(MINUTE)}

    assert claims.renew(database, {"b": at(MINUTE)}, at(90)) == {"b"}
    assert claim(database, 60) == ["a"]
    assert claims.renew(database, mine | {"b": at(90)}, at(100)) == {"b"}
    claims.release(database, lost)

    assert columns(database, "a", "claimed_until") == (at(120),)
    assert claim(database, 99.9) == []
    assert claim(database, 100) == ["b"]


def test_rows_that_people_insert_with_only_their_id_are_found(database: Database) -> None:
    change_by_hand(database, "INSERT INTO calls (reference_id) VALUES ('by-hand')")
    inserted = stored_call(database, "by-hand").placed_at
    day = timedelta(days=1)

    due = Due(placed_until=inserted, due_until=inserted)
    assert (
        claims.claim(database, replace(due, placed_until=inserted - day), 5, now=inserted, until=inserted + day) == []
    )
    (claimed,) = claims.claim(database, due, 5, now=inserted, until=inserted + day)
    assert claimed.reference_id == "by-hand"


MOMENT = "2026-11-23T09:00:00.000000Z"
BY_HAND = f"""
    INSERT INTO calls (reference_id, call_status, call_duration, ivr, send_status, sent_result, price, cid, request_id,
        phone, campaign, placed_at, registered_at, callback_at, settled_at, settled_by, confirmed_at, last_reported_at,
        report_count, conflict, next_lookup_at, lookup_count, last_lookup_code, gave_up_at, created_at, updated_at)
    VALUES ('missing', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'r', '849', 'tet', '{MOMENT}', '{MOMENT}', NULL, NULL,
        NULL, NULL, NULL, 0, false, NULL, 0, NULL, NULL, '{MOMENT}', '{MOMENT}'),
      ('asked', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{MOMENT}', '{MOMENT}', NULL, NULL,
        NULL, NULL, NULL, 0, false, '{MOMENT}', 3, '104', NULL, '{MOMENT}', '{MOMENT}'),
      ('conflict', 'BUSY', 3, '1', 5, 1, 450.0000, '842', NULL, NULL, NULL, '{MOMENT}', NULL, '{MOMENT}', '{MOMENT}',
        'callback', NULL, '{MOMENT}', 2, true, '{MOMENT}', 0, NULL, NULL, '{MOMENT}', '{MOMENT}'),
      ('given-up', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{MOMENT}', '{MOMENT}', NULL, NULL,
        NULL, NULL, NULL, 0, false, NULL, 9, '104', '{MOMENT}', '{MOMENT}', '{MOMENT}')
"""  # noqa: S608 - nothing of it comes from outside


def test_rows_that_people_insert_with_the_columns_of_the_contract_are_found(database: Database) -> None:
    change_by_hand(database, BY_HAND)

    assert claim(database, 0) == ["missing", "asked", "conflict"]


def test_what_people_insert_of_a_call_is_as_good_as_registered(writer: Writer, database: Database) -> None:
    change_by_hand(database, BY_HAND)
    assert refold(writer, ["missing", "asked"], NOW, check_only=True) == []

    writer.record([callback("missing", 2, call_status="BUSY", phone="other", request_id="other", cid="842")], NOW)
    writer.record([callback("missing", 1, send_status=7)], NOW)
    writer.record([callback("asked", 2, call_status="BUSY", phone="849", request_id="r")], NOW)
    writer.record([callback("asked", 1, send_status=7)], NOW)

    for name in ("missing", "asked"):
        call = stored_call(database, name)
        assert (call.phone, call.request_id, call.call_status, call.placed_at) == ("849", "r", "BUSY", at(-HOUR))
    assert refold(writer, ["missing", "asked"], NOW, check_only=True) == []


# What could not be read


def rejected(seconds: float, payload: str = '{"query": "", "body": ""}', **words: Any) -> Rejected:
    usual: dict[str, Any] = {
        "id": parameters.new_id(),
        "received_at": at(seconds),
        "remote_addr": "203.0.113.7",
        "method": "GET",
        "content_type": None,
        "payload": payload,
        "reason": "ReferenceId: is missing",
    }
    return Rejected(**(usual | words))


def rejected_rows(database: Database) -> list[Any]:
    with database.snapshot(limited=False) as connection:
        return list(connection.execute(select(rejected_callbacks).order_by(rejected_callbacks.c.first_at)))


def test_the_same_method_payload_and_reason_again_only_counts(writer: Writer, database: Database) -> None:
    first = rejected(5)
    for seconds in (5, 9, 7):
        writer.reject(first if seconds == 5 else rejected(seconds))
    writer.reject(rejected(10, method="POST"))
    writer.reject(rejected(11, reason="ReferenceId: is given twice, with different values"))
    writer.reject(rejected(12, payload="{}"))

    rows = rejected_rows(database)
    assert [row.count for row in rows] == [3, 1, 1, 1]
    assert (rows[0].id, rows[0].first_at, rows[0].last_at) == (first.id, at(5), at(9))


def test_a_rejected_callback_is_kept_as_it_came(writer: Writer, database: Database) -> None:
    payload = esms_callback.storable_request(b"\xff\0" + b"q" * 70_000, b"")
    one = rejected(1, payload, content_type="text/plain; charset=\xff", method="POST", remote_addr=None)
    writer.reject(one)

    (row,) = rejected_rows(database)
    assert row.payload == payload
    kept = {name: getattr(row, name) for name in ("id", "remote_addr", "method", "content_type", "reason")}
    assert kept == {name: getattr(one, name) for name in kept}
    assert row.replayed_at is None


@pytest.fixture
def summed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejecting, "STEP_BYTES", 0)
    monkeypatch.setattr(rejecting, "SPARE_BYTES", 0)


@pytest.mark.usefixtures("summed_each_time")
def test_when_the_limit_is_reached_replayed_ones_are_dropped_first_and_then_the_oldest(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = 1000 + rejecting.ROW_OVERHEAD_BYTES
    monkeypatch.setattr(rejecting, "LIMIT_BYTES", 4 * each)
    kept = [rejected(seconds, str(seconds) * 1000) for seconds in range(4)]
    for one in kept:
        writer.reject(one)
    assert count(database, rejected_callbacks) == 4
    writer.replay_rejected(callback("a", 2, id=kept[2].id, call_status="BUSY"), NOW)

    left = []
    for seconds in range(4, 8):
        writer.reject(rejected(seconds, str(seconds) * 1000))
        left.append([row.payload[0] for row in rejected_rows(database)])

    assert left == [list("0134"), list("1345"), list("3456"), list("4567")]


@pytest.mark.usefixtures("summed_each_time")
def test_rows_that_another_program_copied_in_without_a_size_count_too(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = 1000 + rejecting.ROW_OVERHEAD_BYTES
    for seconds in range(6):
        writer.reject(rejected(seconds, str(seconds) * 1000))
    with database.transaction() as connection:
        connection.execute(update(rejected_callbacks).values(size=0))
    monkeypatch.setattr(rejecting, "LIMIT_BYTES", 4 * each)

    writer.reject(rejected(6, "6" * 1000))

    assert [row.payload[0] for row in rejected_rows(database)] == list("3456")


@pytest.mark.usefixtures("summed_each_time")
def test_one_large_rejected_callback_drops_as_many_small_ones_as_it_needs(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejecting, "LIMIT_BYTES", 100 * (10 + rejecting.ROW_OVERHEAD_BYTES))
    for seconds in range(100):
        writer.reject(rejected(seconds, f"{seconds:010}"))
    writer.reject(rejected(500, "x" * (80 * (10 + rejecting.ROW_OVERHEAD_BYTES) - rejecting.ROW_OVERHEAD_BYTES)))

    left = [row.first_at for row in rejected_rows(database)]
    assert left == [at(seconds) for seconds in (*range(10), *range(90, 100), 500)], "the first few of a reason stay"


@pytest.mark.usefixtures("summed_each_time")
def test_messages_of_other_channels_are_dropped_before_reports_and_the_most_frequent_reason_before_others(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = 10 + rejecting.ROW_OVERHEAD_BYTES
    monkeypatch.setattr(rejecting, "LIMIT_BYTES", 60 * each)
    reasons = ["is missing"] * 12 + [f"{rejecting.OTHER_CHANNEL}2"] * 20 + ["flood"] * 60
    for seconds, reason in enumerate(reasons):
        writer.reject(replace(rejected(seconds, f"{seconds:010}"), reason=reason))

    left = Counter(row.reason for row in rejected_rows(database))
    assert left == {"is missing": 12, "flood": 48}
    for seconds in range(100, 160):
        writer.reject(replace(rejected(seconds, f"{seconds:010}"), reason=f"reason {seconds}"))
    left = Counter(row.reason for row in rejected_rows(database))
    assert (left["is missing"], left["flood"]) == (0, 0), "each of 60 reasons keeps its only one"


def test_what_is_rejected_is_summed_up_only_now_and_then_and_stays_within_its_limit_with_many_processes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = 1000 + rejecting.ROW_OVERHEAD_BYTES
    monkeypatch.setattr(rejecting, "STEP_BYTES", 10 * each)
    monkeypatch.setattr(rejecting, "SPARE_BYTES", 40 * each)
    monkeypatch.setattr(rejecting, "LIMIT_BYTES", 100 * each)
    sums: list[None] = []
    free_space = rejecting._free_space  # noqa: SLF001 - what it costs is not seen from outside in so small a table

    def summing_up(connection: Connection) -> None:
        sums.append(None)
        free_space(connection)

    monkeypatch.setattr(rejecting, "_free_space", summing_up)
    stores = [writing.Writer(database) for _ in range(4)]

    most = 0
    for place in range(200):
        stores[place % 4].reject(rejected(place, f"{place:01000}"))
        most = max(most, count(database, rejected_callbacks))

    assert 60 < most <= 100
    assert len(sums) == 4 + 4 * (49 // 10)


@pytest.mark.usefixtures("summed_each_time")
def test_one_that_only_counts_drops_nothing(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.reject(rejected(1, "one"))
    writer.reject(rejected(2, "two"))
    monkeypatch.setattr(rejecting, "LIMIT_BYTES", 1)
    writer.reject(rejected(3, "one"))

    assert [row.count for row in rejected_rows(database)] == [2, 1]


def test_replaying_a_rejected_callback_twice_stores_one_report(writer: Writer, database: Database) -> None:
    one = rejected(5)
    writer.reject(one)
    report = callback("a", 5, id=one.id, call_status="BUSY")

    assert [writer.replay_rejected(report, at(seconds)) for seconds in (60, 70)] == ["settled", "settled"]

    assert stored_reports(database, "a") == [report]
    assert stored_call(database, "a").report_count == 1
    assert rejected_rows(database)[0].replayed_at is not None


# Folding anew


def a_history() -> list[StatusReport]:
    return [
        callback("a", 1, send_status=7, cid="842"),
        callback("a", 2, call_status="BUSY", call_duration=1, price=Decimal("450.0000")),
        callback("a", 3, call_status="ANSWERED", call_duration=9),
        lookup("a", 4, call_status="ANSWERED", ivr="1"),
        callback("a", 5, call_status="ANSWERED", ivr="1"),
    ]


DAMAGES = [
    "call_status = NULL",
    "call_status = 'WRONG', price = 1",
    "settled_at = NULL, settled_by = NULL",
    "confirmed_at = NULL, confirmed_fields = NULL",
    "confirmed_fields = 'call_status,call_duration,ivr'",
    "report_count = 0, last_reported_at = NULL",
    "conflict = true",
    "callback_at = NULL",
    f"placed_at = '{MOMENT}'",
    "phone = 'wrong'",
]


def refold(writer: Writer, reference_ids: list[str], now: datetime, *, check_only: bool) -> list[str]:
    return [one.reference_id for one in writer.refold(reference_ids, now, check_only=check_only)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_row_that_was_damaged_by_hand_is_named_and_put_right(writer: Writer, database: Database, damage: str) -> None:
    writer.record(a_history(), at(6))
    writer.record([callback("b", 1, call_status="BUSY")], NOW)
    whole = stored_call(database, "a")
    change_by_hand(database, f"UPDATE calls SET {damage} WHERE reference_id = 'a'")  # noqa: S608
    damaged = stored_call(database, "a")
    assert damaged != whole

    assert refold(writer, ["a", "b"], at(100), check_only=True) == ["a"]
    assert stored_call(database, "a") == damaged
    assert refold(writer, ["a", "b"], at(100), check_only=False) == ["a"]
    assert by_reports(stored_call(database, "a")) == by_reports(whole)
    assert refold(writer, ["a", "b"], at(100), check_only=True) == []
    assert columns(database, "b", "updated_at") == (NOW,)


@pytest.mark.parametrize("registered", [True, False])
def test_folding_anew_leaves_sound_calls_alone(writer: Writer, database: Database, *, registered: bool) -> None:
    if registered:
        writer.register([Registration(reference_id="a", phone="849", campaign="tet", placed_at=at(-9))], NOW)
        writer.register([Registration(reference_id="registered", request_id="r")], NOW)
    writer.register([Registration(reference_id="asked")], NOW)
    writer.record(a_history()[::-1], at(6))
    conclude(writer, 7, LookupAnswer("a", "104"), LookupAnswer("asked", "104"))
    names = ["a", "registered", "asked", "unknown"]
    before = {name: columns(database, name, *calls.c.keys()) for name in ("a", "asked")}

    for check_only in (True, False):
        assert refold(writer, names, at(100), check_only=check_only) == []
    assert {name: columns(database, name, *calls.c.keys()) for name in before} == before
    assert count(database, calls) == 2 + registered


def test_a_call_whose_row_was_deleted_is_named_and_restored(writer: Writer, database: Database) -> None:
    writer.record(a_history(), at(6))
    whole = stored_call(database, "a")
    change_by_hand(database, "DELETE FROM calls")

    assert refold(writer, ["a"], at(100), check_only=True) == ["a"]
    assert count(database, calls) == 0
    assert refold(writer, ["a"], at(100), check_only=False) == ["a"]
    assert stored_call(database, "a") == whole
    assert refold(writer, ["a"], at(100), check_only=False) == []


def test_a_conflict_that_folding_anew_finds_is_asked_about(writer: Writer, database: Database) -> None:
    writer.record([callback("a", 1, call_status="BUSY"), callback("a", 2, call_status="ANSWERED")], at(3))
    change_by_hand(database, "UPDATE calls SET conflict = false, next_lookup_at = NULL")

    assert refold(writer, ["a"], at(100), check_only=False) == ["a"]
    assert (stored_call(database, "a").conflict, stored_call(database, "a").next_lookup_at) == (True, at(400))


# Runs


def test_a_run_is_written_when_it_starts_and_when_it_ends(database: Database) -> None:
    run = Run(id=parameters.new_id(), started_at=at(1), host="here")
    start_run(database, run, lease=timedelta(minutes=1))
    with database.snapshot(limited=False) as connection:
        begun = connection.execute(select(reconcile_runs)).mappings().one()
    assert (begun["finished_at"], begun["outcome"], begun["checked"]) == (None, None, 0)

    ended = replace(run, finished_at=at(9), outcome="failures", checked=15, settled=1, pending=2, not_found=3)
    ended = replace(ended, failed=4, gave_up=5)
    save_run(database, ended)

    with database.snapshot(limited=False) as connection:
        row = connection.execute(select(reconcile_runs)).mappings().one()
    assert dict(row) == {"answered_at": None} | {field.name: getattr(ended, field.name) for field in fields(Run)}


# Whatever comes


SAID = st.fixed_dictionaries(
    {},
    optional={
        "call_status": st.sampled_from(["ANSWERED", "BUSY"]),
        "call_duration": st.integers(0, 1),
        "ivr": st.sampled_from(["1", "2"]),
        "send_status": st.sampled_from([2, 4, 5, 7]),
        "price": st.sampled_from([Decimal("1.0000"), Decimal("2.5000")]),
        "phone": st.sampled_from(["1", "2"]),
    },
)
REPORT = st.tuples(st.sampled_from([callback, lookup]), st.sampled_from("ab"), st.integers(0, 4), SAID)
WORDS = st.none() | st.builds(
    Registration,
    reference_id=st.sampled_from("ab"),
    phone=st.none() | st.just("mine"),
    placed_at=st.none() | st.just(at(2)),
)


@st.composite
def writings(draw: st.DrawFn) -> tuple[list[StatusReport], list[list[StatusReport]], Registration | None, int]:
    """Reports of two calls, batches in which each of them is written at least once, a registration and its place."""
    delivered = [
        make(name, second, **said) for make, name, second, said in draw(st.lists(REPORT, min_size=1, max_size=8))
    ]
    some = draw(st.lists(st.lists(st.sampled_from(delivered), min_size=1, max_size=4), max_size=4))
    written = {report.id for batch in some for report in batch}
    rest = draw(st.permutations([report for report in delivered if report.id not in written]))
    batches = [*some, list(rest)]
    return delivered, batches, draw(WORDS), draw(st.integers(0, len(batches)))


def renamed(delivered: Sequence[StatusReport], example: str) -> Iterator[StatusReport]:
    """The reports as those of calls of their own, in every example."""
    for report in delivered:
        yield replace(report, reference_id=example + report.reference_id, id=uuid.uuid5(report.id, example))


@settings(deadline=None, max_examples=sized(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writing=writings(), asked=st.booleans())
def test_random_reports_in_random_batches_end_in_the_fold_of_their_set(
    writer: Writer,
    database: Database,
    writing: tuple[list[StatusReport], list[list[StatusReport]], Registration | None, int],
    *,
    asked: bool,
) -> None:
    delivered, batches, registration, place = writing
    example = uuid.uuid4().hex
    if registration:
        registration = replace(registration, reference_id=example + registration.reference_id)
    for number, batch in enumerate([*batches, []]):
        if registration and number == place:
            writer.register([registration], at(3))
        mine = list(renamed(batch, example))
        if asked:
            conclude(writer, 10, *[answer(report) for report in mine if report.source == "lookup"])
            mine = [report for report in mine if report.source == "callback"]
        writer.record(mine, at(10))

    for name in {report.reference_id for report in delivered}:
        expected = Call(reference_id=example + name, placed_at=NOW)
        if registration and registration.reference_id == example + name:
            expected = rule.register(expected, registration, at(3))
        mine = list(renamed([report for report in delivered if report.reference_id == name], example))
        assert by_reports(stored_call(database, example + name)) == rule.fold_all(expected, mine)
        assert {report.id for report in stored_reports(database, example + name)} == {report.id for report in mine}
    assert refold(writer, [example + "a", example + "b"], at(20), check_only=True) == []


# Calls with many reports

MANY = 50


def hot_history(number: int, *, seed: int) -> list[StatusReport]:
    """``number`` reports of one call, of every kind, in an order that is not theirs."""
    chance = random.Random(seed)  # noqa: S311

    def one(second: int) -> StatusReport:
        make = chance.choice([callback, callback, callback, lookup])
        said: dict[str, Any] = {
            "call_status": chance.choice([None, "ANSWERED", "BUSY"]),
            "call_duration": chance.choice([None, 0, 7]),
            "ivr": chance.choice([None, "1", "#"]),
            "send_status": chance.choice([None, 2, 5, 7]),
            "price": chance.choice([None, Decimal("450.0000"), Decimal("1.5000")]),
            "phone": chance.choice([None, "1", "2"]),
        }
        return make("a", second // 2, **said)

    delivered = [one(second) for second in range(number)]
    chance.shuffle(delivered)
    return delivered


@pytest.mark.parametrize("size", [1, 7, 300])
def test_a_call_with_a_great_many_reports_in_any_order_is_the_fold_of_its_history(
    writer: Writer, database: Database, size: int
) -> None:
    delivered = hot_history(3 * MANY, seed=size)
    for start in range(0, len(delivered), size):
        writer.record([*delivered[start : start + size], *([] if start else [callback("cold")])], at(0))

    history = stored_reports(database, "a")
    assert {report.id for report in history} == {report.id for report in delivered}
    assert by_reports(stored_call(database, "a")) == by_reports(fold_of(delivered))
    assert refold(writer, ["a", "cold"], at(9), check_only=True) == []
    writer.record(delivered[:60], at(9))
    assert stored_call(database, "a").report_count == len(delivered), "the same ones again do nothing"


def test_a_hot_call_that_several_write_at_once_is_the_fold_of_its_history(writer: Writer, database: Database) -> None:
    delivered = hot_history(3 * MANY, seed=3)
    problems: list[BaseException] = []

    def write(mine: Sequence[StatusReport]) -> None:
        try:
            for start in range(0, len(mine), 3):
                writer.record(mine[start : start + 3], at(0))
        except BaseException as problem:  # noqa: BLE001 - raised below
            problems.append(problem)

    threads = [threading.Thread(target=write, args=(delivered[place::4],)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert problems == []
    assert by_reports(stored_call(database, "a")) == by_reports(fold_of(delivered))
    assert {report.id for report in stored_reports(database, "a")} == {report.id for report in delivered}
    assert refold(writer, ["a"], at(9), check_only=True) == []
