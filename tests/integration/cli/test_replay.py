"""The command replay: the history and the rejected callbacks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from makers import NOW, at, callback, change_by_hand, lookup, stored_call, stored_reports

from webapp.calls.rule import Registration
from webapp.storage.filters import CallFilter
from webapp.storage.models import due_replay
from webapp.storage.rejected import OTHER_CHANNEL

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

from commands import SET, done, rejected, run


def history_with_two_changed_by_hand(writer: Writer, database: Database) -> None:
    reports = [callback(name, second, call_status="BUSY") for name in "abc" for second in (1, 2)]
    writer.record(reports, NOW)
    change_by_hand(database, "UPDATE calls SET call_status = 'ANSWERED', ivr = '1' WHERE reference_id = 'b'")
    change_by_hand(database, "DELETE FROM calls WHERE reference_id = 'c'")


@SET
def test_a_replay_that_checks_names_the_calls_that_differ_and_changes_nothing(
    writer: Writer, database: Database, reader: Reader
) -> None:
    history_with_two_changed_by_hand(writer, database)
    before = list(reader.export())

    result = run("replay", "--check")

    assert (result.exit_code, result.stdout) == (1, "b\nc\n")
    assert "3 calls read, 2 differ from their history" in result.stderr
    assert list(reader.export()) == before


@SET
def test_a_replay_corrects_the_calls_that_differ_and_changes_no_other(
    writer: Writer, database: Database, reader: Reader
) -> None:
    history_with_two_changed_by_hand(writer, database)
    untouched = reader.call("a")

    first, check, again = run("replay"), run("replay", "--check"), run("replay")

    assert [(one.exit_code, one.stdout) for one in (first, check, again)] == [(0, "b\nc\n"), (0, ""), (0, "")]
    assert "3 calls read, 2 differed from their history and were corrected" in first.stderr
    for name in "bc":
        call = stored_call(database, name)
        assert (call.call_status, call.ivr, call.report_count, call.settled_at) == ("BUSY", None, 2, at(1))
    assert reader.call("a") == untouched


@SET
def test_a_replay_of_the_rejected_stores_those_that_can_be_read_now_once(writer: Writer, database: Database) -> None:
    readable, other = rejected(b"ReferenceId=A&SendStatus=5", seconds=1), rejected(b"x=1", seconds=2)
    for one in (readable, other):
        writer.reject(one)

    first, again = run("replay", "--rejected"), run("replay", "--rejected")

    assert (first.exit_code, first.stdout) == (0, "a settled\n")
    assert "1 rejected callbacks stored, 1 still cannot be read" in first.stderr
    assert (again.exit_code, again.stdout) == (0, "")
    assert "0 rejected callbacks stored, 1 still cannot be read" in again.stderr
    (report,) = stored_reports(database, "a")
    assert (report.id, report.received_at, report.remote_addr) == (readable.id, at(1), "203.0.113.7")
    assert json.loads(run("status", "--json").stdout)["rejected"] == 1


@SET
def test_a_replay_of_the_rejected_goes_back_only_so_far(writer: Writer, reader: Reader) -> None:
    for second in (0, 10):
        writer.reject(rejected(f"ReferenceId=call-{second}".encode(), seconds=second))

    assert done("replay", "--rejected", "--since", "2026-11-23T17:00:10") == "call-10 progressed\n"
    assert reader.call("call-0") is None
    assert done("replay", "--rejected") == "call-0 progressed\n"


@SET
def test_a_replay_of_the_rejected_leaves_messages_of_other_channels(writer: Writer, reader: Reader) -> None:
    message = b"SMSID=sms&TypeId=2&SendStatus=5&SendSuccess=1"
    writer.reject(replace(rejected(message), reason=f"{OTHER_CHANNEL}2"))

    result = run("replay", "--rejected")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "1 are messages of other channels" in result.stderr
    assert reader.call("sms") is None


@SET
def test_a_replay_says_how_calls_changed(writer: Writer, database: Database) -> None:
    writer.record([callback(name, 1, call_status="BUSY", price=450) for name in "ab"], NOW)
    change_by_hand(database, "UPDATE calls SET price = 1")
    change_by_hand(database, "UPDATE calls SET settled_at = NULL, settled_by = NULL WHERE reference_id = 'b'")

    result = run("replay")

    assert (result.exit_code, result.stdout) == (0, "a\nb\n")
    assert "outcome missing -> other: 1" in result.stderr
    assert "by column: price 2, settled_at 1, settled_by 1" in result.stderr


@SET
def test_what_only_code_99_had_settled_is_missing_again_after_a_replay(writer: Writer, database: Database) -> None:
    writer.record([lookup("a", 1, lookup_code="99")], NOW)
    change_by_hand(database, "UPDATE calls SET settled_at = last_reported_at, settled_by = 'lookup'")

    result = run("replay")

    assert (result.exit_code, result.stdout) == (0, "a\n")
    assert "outcome unknown -> missing: 1" in result.stderr
    assert not stored_call(database, "a").settled


@SET
def test_a_replay_that_is_due_is_named_until_it_ran(writer: Writer, database: Database) -> None:
    writer.record([callback("a", 1, call_status="BUSY")], NOW)
    with database.transaction() as connection:
        connection.execute(due_replay.insert().values(one=1, since=NOW))

    for command in ("migrate", "status"):
        assert "esms-calls replay" in run(command).stdout
    assert run("replay", "--check").exit_code == 0
    assert "esms-calls replay" in run("migrate").stdout, "a check changes nothing"
    done("replay")
    for command in ("migrate", "status"):
        assert "esms-calls replay" not in run(command).stdout


@SET
def test_unread_values_are_read_again_and_their_calls_folded_anew(writer: Writer, database: Database) -> None:
    payload = json.dumps({"ReferenceId": "A", "CallStatus": "BUSY", "CallDuration": "13.0", "Price": "free"})
    misread = callback("a", 1, call_status="BUSY", unread="CallDuration,Price", payload=payload, esms_id="A")
    other = json.dumps({"ReferenceId": "b", "CallStatus": "BUSY", "Ivr": []})
    effects = writer.record([misread, callback("b", 2, call_status="BUSY", unread="Ivr", payload=other)], NOW)

    early, late = run("replay", "--unread", "--since", "2026-11-23T17:00:02"), run("replay", "--unread")
    again = run("replay", "--unread")

    assert [(one.exit_code, one.stdout) for one in (early, late, again)] == [(0, ""), (0, "a\n"), (0, "")]
    assert "2 reports with unread values, 1 are read otherwise now, 1 calls changed" in late.stderr
    (report,) = stored_reports(database, "a")
    assert (report.call_duration, report.unread, report.payload) == (13, "Price", payload)
    assert stored_call(database, "a").call_duration == 13
    assert effects == ["settled", "settled"]
    assert run("replay", "--check").exit_code == 0


@SET
@pytest.mark.parametrize("options", [["--check", "--unread"], ["--rejected", "--unread"], ["--since", "today"]])
def test_options_that_do_not_go_together_are_a_usage_error(options: list[str]) -> None:
    assert run("replay", *options).exit_code == 2


@SET
def test_a_replay_gives_phones_their_one_form(writer: Writer, database: Database, reader: Reader) -> None:
    """Calls that were stored by an older version, or inserted by SQL, have none; they are found after it."""
    writer.register([Registration(reference_id=name, phone="0901 888 484") for name in "ab"], NOW)
    change_by_hand(database, "UPDATE calls SET phone_e164 = NULL WHERE reference_id = 'a'")
    change_by_hand(database, "INSERT INTO calls (reference_id, phone) VALUES ('c', '+84901888484')")
    untouched = reader.call("b")

    checked, replayed = run("replay", "--check"), run("replay")

    assert (checked.exit_code, checked.stdout) == (1, "a\nc\n")
    assert "by column: phone_e164 2" in replayed.stderr
    found, _ = reader.page(CallFilter(phone="84901888484"), None, 10)
    assert {call["reference_id"] for call in found} == {"a", "b", "c"}
    assert reader.call("b") == untouched
    assert done("replay", "--check") == ""
