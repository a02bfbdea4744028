"""The command dismiss: status names no more what a person has seen to, until something new happens to it."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from makers import at, callback, change_by_hand, stored_call

from webapp.calls.rule import Registration

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

from commands import ON_SQLITE, SET, done, rejected, run


def given_up(writer: Writer, database: Database, *names: str) -> None:
    writer.register([Registration(reference_id=name, placed_at=at(0)) for name in names], at(0))
    for name in names:
        change_by_hand(database, "UPDATE calls SET gave_up_at = placed_at WHERE reference_id = :name", name=name)


def two_prices(writer: Writer, name: str, *prices: int) -> None:
    said = {"call_status": "ANSWERED", "call_duration": 13}
    writer.record([callback(name, place, price=price, **said) for place, price in enumerate(prices)], at(60))


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("status", "--json").stdout)
    return found


def needs(words: str) -> list[str]:
    """The lines of status that need a person and hold these words."""
    return [need for need in status()["needs"] if words in need]


@SET
def test_a_call_that_was_dismissed_needs_no_person_any_more(writer: Writer, database: Database) -> None:
    given_up(writer, database, "a", "b")
    two_prices(writer, "c", 450, 900)
    before = stored_call(database, "c")

    assert done("dismiss", "A", "c", "a") == "calls dismissed: 2\n"

    assert needs("calls given up: 1,")
    assert not needs("calls with two prices")
    after = stored_call(database, "c")
    assert after.dismissed_at is not None
    assert (after.price_conflict, after.price) == (before.price_conflict, before.price) == (True, Decimal(450))
    assert "dismissed_at" in done("show", "c")
    assert done("replay", "--check") == ""


@SET
def test_a_dismissal_can_be_taken_back(writer: Writer, database: Database) -> None:
    given_up(writer, database, "a")
    done("dismiss", "a")
    assert not needs("calls given up")

    assert done("dismiss", "--undo", "a") == "calls taken back: 1\n"

    assert needs("calls given up: 1,")
    assert stored_call(database, "a").dismissed_at is None


@SET
def test_something_new_is_named_again(writer: Writer, database: Database) -> None:
    two_prices(writer, "a", 450, 900)
    two_prices(writer, "b", 450, 900)
    done("dismiss", "a", "b")

    two_prices(writer, "a", 450, 900)
    assert not needs("calls with two prices")
    two_prices(writer, "b", 1000)

    assert stored_call(database, "a").dismissed_at is not None
    assert stored_call(database, "b").dismissed_at is None
    assert needs("calls with two prices: 1,")


@SET
def test_all_calls_that_were_given_up_are_dismissed_at_once(writer: Writer, database: Database, reader: Reader) -> None:
    names = [f"call-{number}" for number in range(1200)]
    writer.register([Registration(reference_id=name, placed_at=at(0)) for name in ["open", *names]], at(0))
    change_by_hand(database, "UPDATE calls SET gave_up_at = placed_at WHERE reference_id <> 'open'")

    assert done("dismiss", "--given-up") == "given-up calls dismissed: 1200\n"
    assert done("dismiss", "--given-up") == "given-up calls dismissed: 0\n"

    assert not needs("calls given up")
    assert stored_call(database, "open").dismissed_at is None
    call = reader.call("call-7")
    assert call is not None
    assert call["updated_at"] == call["dismissed_at"]
    assert done("dismiss", "--given-up", "--undo") == "given-up calls taken back: 1200\n"
    assert needs("calls given up: 1200,")


@SET
def test_rejected_callbacks_that_need_a_person_are_dismissed_until_the_same_comes_again(writer: Writer) -> None:
    for query in (b"a=1", b"b=2"):
        writer.reject(rejected(query))
    writer.reject(replace(rejected(b"c=3"), reason="other channel: TypeId 2"))
    assert needs("callbacks that could not be read: 2 (")

    assert done("dismiss", "--rejected") == "rejected callbacks dismissed: 2\n"
    assert not needs("callbacks that could not be read")
    writer.reject(rejected(b"b=2", seconds=60))

    assert needs("callbacks that could not be read: 1 (")
    assert done("dismiss", "--rejected", "--undo") == "rejected callbacks taken back: 1\n"
    assert needs("callbacks that could not be read: 2 (")


@SET
def test_ids_that_are_not_stored_are_named(writer: Writer, database: Database) -> None:
    given_up(writer, database, "a")

    result = run("dismiss", "nobody", "a", "nothing", "NOBODY")

    assert (result.exit_code, result.stdout) == (1, "calls dismissed: 1\n")
    assert result.stderr == "unknown: nobody\nunknown: nothing\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name the calls, or use --given-up or --rejected."),
        (["--undo"], "Name the calls, or use --given-up or --rejected."),
        (["a b"], "'a b': an id must have 1 to 128 visible ASCII characters."),
    ],
)
@ON_SQLITE
@SET
def test_a_wrong_use_is_refused(arguments: list[str], words: str) -> None:
    result = run("dismiss", *arguments)

    assert result.exit_code == 2
    assert words in result.stderr
