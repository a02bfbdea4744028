"""How things stand, in words: the share of look-ups, the calls that were given up, and what a person has to do."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from makers import callback, lookup

from webapp.calls.rule import Registration
from webapp.cli.commands import cli
from webapp.esms.lookup import LookupAnswer

if TYPE_CHECKING:
    from webapp.storage.writer import Writer

SET = pytest.mark.usefixtures("settings")


def status(code: int) -> tuple[dict[str, Any], str]:
    """What the command says to programs and to people."""
    as_json, shown = (CliRunner().invoke(cli, ["status", *options]) for options in (["--json"], []))
    assert (as_json.exit_code, shown.exit_code) == (code, code)
    return json.loads(as_json.stdout), shown.stdout


# The share of look-ups


def settled_today(writer: Writer, *, by_callback: int, by_lookup: int, ago: timedelta = timedelta(0)) -> None:
    now = datetime.now(UTC) - ago
    kinds = [callback] * by_callback + [lookup] * by_lookup
    reports = [kind(f"{ago}-{place}", received_at=now, call_status="BUSY") for place, kind in enumerate(kinds)]
    writer.record(reports, now)


@SET
def test_status_asks_for_a_person_when_too_many_calls_are_settled_by_lookup(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled_today(writer, by_callback=19, by_lookup=1)
    settled_today(writer, by_callback=0, by_lookup=5, ago=timedelta(hours=24, seconds=1))

    found, shown = status(0)
    assert (found["settled_last_day"], found["lookup_share"], found["needs"]) == (20, 0.05, [])
    assert re.search(r"settled by lookup, 24 h +5\.0% \(1 of 20\)", shown)

    monkeypatch.setenv("LOOKUP_SHARE_WARN", "4.9%")
    found, shown = status(1)
    (need,) = found["needs"]
    assert need.startswith(
        "settled by lookup in the last 24 hours: 5.0% (1 of 20), more than LOOKUP_SHARE_WARN (4.9%)."
    )
    assert f"! {need}\n" in shown


@SET
def test_status_knows_no_share_where_nothing_was_settled() -> None:
    found, shown = status(0)

    assert (found["settled_last_day"], found["lookup_share"]) == (0, None)
    assert re.search(r"settled by lookup, 24 h +none was settled", shown)


# Calls that were given up


@pytest.mark.parametrize("number", [1, 20, 23])
@SET
def test_status_names_the_first_calls_that_were_given_up(writer: Writer, number: int) -> None:
    now = datetime.now(UTC)
    names = [f"call-{place:02}" for place in range(number)]
    placed_at = now - timedelta(days=4)
    writer.register([Registration(reference_id=name, placed_at=placed_at) for name in names], now)
    writer.conclude([LookupAnswer(name, "104") for name in names], now, give_up=timedelta(hours=72))

    found, shown = status(1)

    assert found["given_up_calls"] == names[:20]
    lines = shown.splitlines()
    below = lines.index("Given up, oldest placed first:") + 1
    assert lines[below : below + min(number, 20)] == [f"  {name}" for name in names[:20]]
    assert (f"  and {number - 20} more" in lines) == (number > 20)
