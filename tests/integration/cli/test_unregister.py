"""The command unregister: takes back registrations, and names what is not stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, at, callback

from webapp.calls.rule import Registration

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

from commands import ON_SQLITE, SET, done, run

REGISTERED: dict[str, Any] = {"request_id": "r-1", "phone": "0901888484", "campaign": "june", "kind": "otp"}


def payload(name: str) -> str:
    return json.dumps({"ReferenceId": name})


def registered_and_reported(writer: Writer) -> None:
    """``silent``: registered alone; ``both``: registered and reported; ``reported``: never registered."""
    names = ("silent", "both")
    registrations = [
        Registration(reference_id=name, esms_id=name.upper(), placed_at=at(-60), **REGISTERED) for name in names
    ]
    writer.register(registrations, NOW)
    reports = [
        callback(name, 10, call_status="ANSWERED", phone="0911111111", esms_id=name, payload=payload(name))
        for name in ("both", "reported")
    ]
    writer.record(reports, at(10))


@SET
def test_a_call_without_reports_goes_and_another_is_what_its_reports_say(writer: Writer, reader: Reader) -> None:
    registered_and_reported(writer)
    reported = reader.call("reported")

    printed = done("unregister", "SILENT", "both", "Both")

    assert printed == "removed 1, no longer registered 1, unknown 0, bad lines 0\n"
    assert reader.call("silent") is None
    both = reader.call("both")
    assert both is not None
    assert reported is not None
    own = {"reference_id", "reports", "created_at", "updated_at", "esms_id"}
    assert {name: both[name] for name in both.keys() - own} == {name: reported[name] for name in reported.keys() - own}
    assert (both["esms_id"], both["phone"], both["registered_at"], both["campaign"]) == (
        "both",
        "0911111111",
        None,
        None,
    )
    assert both["updated_at"] > both["created_at"]
    assert done("replay", "--check") == ""


@SET
def test_what_was_never_registered_stays_as_it_is(writer: Writer, reader: Reader) -> None:
    registered_and_reported(writer)
    before = reader.call("reported")

    printed = done("unregister", "reported")

    assert printed == "removed 0, no longer registered 0, unknown 0, bad lines 0\n"
    assert reader.call("reported") == before


@SET
def test_a_call_may_be_registered_again(writer: Writer, reader: Reader) -> None:
    registered_and_reported(writer)
    before = {name: reader.call(name) for name in ("silent", "both")}

    done("unregister", "silent", "both")
    assert done("register", stdin="silent\nboth\n") == "registered 2, already known 0, changed 0, bad lines 0\n"

    for name, call in before.items():
        again = reader.call(name)
        assert call is not None
        assert again is not None
        assert (again["outcome"], again["campaign"]) == (call["outcome"], None)


@SET
def test_ids_that_are_not_stored_are_named(writer: Writer, reader: Reader) -> None:
    registered_and_reported(writer)

    result = run("unregister", "nobody", "silent", "nothing")

    assert result.exit_code == 1
    assert result.stdout == "removed 1, no longer registered 0, unknown 2, bad lines 0\n"
    assert "unknown: nobody\nunknown: nothing\n" in result.stderr
    assert reader.count() == 2


@SET
def test_a_file_is_read_as_register_reads_it(writer: Writer, reader: Reader, tmp_path: Path) -> None:
    registered_and_reported(writer)
    file = tmp_path / "wrong.csv"
    file.write_text("sep=;\nphone;SMSID;other\n1;Silent;x\n2;both;y\n3;a b;z\n")

    result = run("unregister", "--file", file)

    assert (result.exit_code, result.stdout) == (1, "removed 1, no longer registered 1, unknown 0, bad lines 1\n")
    assert "line 5: reference_id: must have 1 to 128" in result.stderr
    assert reader.call("silent") is None


@SET
def test_every_call_of_a_long_file_is_taken_back(reader: Reader) -> None:
    given = "".join(f"call-{number}\n" for number in range(1100))
    done("register", stdin=given)

    assert done("unregister", "--file", "-", stdin=given).startswith("removed 1100, no longer registered 0, unknown 0")
    assert reader.count() == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        ([], "", "Name the calls, or use --file."),
        (["a", "--file", "-"], "a\n", "Name the calls, or use --file."),
        (["a b"], "", "'a b': an id must have 1 to 128 visible ASCII characters."),
        (["--file", "-"], "silent,1\n", "line 1 holds a comma, and names no column reference_id"),
    ],
)
@ON_SQLITE
@SET
def test_a_wrong_use_takes_back_nothing(
    writer: Writer, reader: Reader, arguments: list[str], stdin: str, words: str
) -> None:
    registered_and_reported(writer)

    result = run("unregister", *arguments, stdin=stdin)

    assert result.exit_code == 2
    assert words in result.stderr
    assert reader.count() == 3
