"""The command show: one call and its story, for people, in local time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from makers import NOW, at, callback, lookup

from webapp.calls.rule import Registration

if TYPE_CHECKING:
    import pytest

    from webapp.storage.writer import Writer

from commands import ON_SQLITE, SET, done, run


def facts(printed: str) -> dict[str, str]:
    """The table above the story."""
    lines = [line.split(maxsplit=1) for line in printed.splitlines() if line.startswith("  ")]
    return {name: value.strip() for name, value in (line for line in lines if len(line) == 2)}


@SET
def test_show_has_a_line_for_each_report_in_local_time(writer: Writer) -> None:
    writer.register([Registration(reference_id="a", campaign="Tết", phone="0901888484", esms_id="A")], at(0))
    writer.record([callback("a", 1, send_status=7)], at(1))
    writer.record(
        [
            callback("a", 2, call_status="NOANSWERED", call_duration=0, sent_result=0, price=0),
            callback("a", 3, call_status="ANSWERED", call_duration=13, ivr="1"),
            lookup("a", 4, send_status=5, call_status="ANSWERED", request_id="r-1", unread="Ivr"),
            lookup("a", 5, lookup_code="99"),
        ],
        at(5),
    )

    printed = done("show", " A ")

    story = [line for line in printed.splitlines() if line[:4] == "2026" or line.startswith("    could")]
    first, second, third, fourth, unread, last = story
    assert first == (
        "2026-11-23 17:00:01  callback was progress (after 1 s, from 203.0.113.7);"
        " it said: SendStatus sent, result awaited"
    )
    assert second == (
        "2026-11-23 17:00:02  callback settled the call (after 2 s, from 203.0.113.7);"
        " it said: NOANSWERED, failed at the carrier, 0 s, 0 VND"
    )
    assert third == (
        "2026-11-23 17:00:03  callback disagreed with the settled call (after 3 s, from 203.0.113.7);"
        " it said: NOANSWERED → ANSWERED, 0 → 13 s, key 1"
    )
    assert fourth == (
        "2026-11-23 17:00:04  lookup confirmed the call (after 4 s, code 100);"
        " it said: ANSWERED, SendStatus sent, result awaited → done, request id r-1"
    )
    assert unread == "    could not be read: Ivr"
    assert last == (
        "2026-11-23 17:00:05  lookup changed nothing: the call was settled already (after 5 s, code 99);"
        " it said: nothing"
    )
    shown = facts(printed)
    assert (shown["outcome"], shown["campaign"], shown["phone"], shown["esms_id"]) == (
        "answered",
        "Tết (as registered)",
        "0901888484 (as registered)",
        "A (as registered)",
    )
    assert shown["call_duration"] == "13 s (by callback)"
    assert (shown["price"], shown["send_status"]) == ("0 VND (by callback)", "5 (done) (by lookup)")
    assert (shown["call_status"], shown["ivr"]) == ("ANSWERED (by lookup)", "1 (by callback)")
    assert (shown["registered_at"], shown["settled_by"]) == ("2026-11-23 17:00:00", "callback")
    assert "gave_up_at" not in shown


@SET
def test_show_distinguishes_zero_from_what_is_not_known(writer: Writer) -> None:
    writer.record([callback("a", 1, send_status=5, call_duration=0, sent_result=0, price=0)], at(1))

    shown = facts(done("show", "a"))

    assert (shown["call_duration"], shown["price"], shown["sent_result"]) == (
        "0 s (by callback)",
        "0 VND (by callback)",
        "0 (failed at the carrier) (by callback)",
    )
    assert not {"call_status", "conflict"} & shown.keys()


@ON_SQLITE
@SET
def test_show_is_in_the_zone_that_is_set(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIME_ZONE", "America/New_York")
    writer.record([callback("a", 0, call_status="ANSWERED")], NOW)

    assert "2026-11-23 05:00:00  callback settled the call" in done("show", "a")


@SET
def test_show_of_a_call_without_a_report_says_so(writer: Writer) -> None:
    writer.register([Registration(reference_id="a")], NOW)

    printed = done("show", "a")

    assert facts(printed)["outcome"] == "missing"
    assert "No report of this call has come." in printed


@ON_SQLITE
@SET
def test_show_of_an_unknown_call_names_it() -> None:
    result = run("show", "Nobody")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "unknown: nobody. No report of it came, and it was never registered." in result.stderr
    assert run("show", "a b").exit_code == run("show").exit_code == 2
    assert "'a b': an id must have 1 to 128 visible ASCII characters." in run("show", "a b").stderr


@ON_SQLITE
@SET
def test_reports_that_say_the_same_again_are_one_line_of_the_story(writer: Writer) -> None:
    writer.record([callback("a", number, call_status="BUSY", cid="1") for number in range(5)], NOW)
    writer.record([callback("a", 9, call_status="BUSY", cid="1", remote_addr="203.0.113.8")], NOW)

    story = [line.partition("  ")[2] for line in done("show", "a").splitlines() if line[:4] == "2026"]

    assert story == [
        "callback settled the call (after 0 s, from 203.0.113.7); it said: BUSY, from 1",
        "callback said nothing new (after 1 s, from 203.0.113.7, 4 times); it said: BUSY, from 1",
        "callback said nothing new (after 9 s, from 203.0.113.8); it said: BUSY, from 1",
    ]


@ON_SQLITE
@SET
def test_a_call_placed_after_its_reports_has_no_delay(writer: Writer) -> None:
    writer.record([callback("a", 0, call_status="BUSY")], NOW)
    writer.register([Registration(reference_id="a", placed_at=at(60))], NOW)

    assert "callback settled the call (from 203.0.113.7); it said: BUSY" in done("show", "a")
