"""The command replay: the history and the rejected callbacks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from makers import NOW, at, callback, change_by_hand, stored_call, stored_reports

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
