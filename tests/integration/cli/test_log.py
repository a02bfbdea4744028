"""LOG_FORMAT=json in commands: what they say on standard error is one object a message, but text on a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import ON_SQLITE, SET, a_terminal
from running import Program, esms_calls

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = [ON_SQLITE, SET]
BAD_LIST = "reference_id,placed_at\na,yesterday at noon\nb,2026-11-23\nc,never\n"


def objects(result: CompletedProcess[str]) -> list[dict[str, Any]]:
    """The lines of standard error, each of which must be an object."""
    return [json.loads(line) for line in result.stderr.splitlines()]


def test_hints_and_results_of_a_command_are_objects() -> None:
    result = esms_calls("register", stdin=BAD_LIST, LOG_FORMAT="json")

    assert result.returncode == 1
    found = objects(result)
    assert [line["logger"] for line in found] == ["esms-calls"] * len(found)
    assert any(line["event"].startswith("line 4: ") for line in found)


def test_log_level_does_not_silence_what_a_command_says() -> None:
    assert objects(esms_calls("register", stdin=BAD_LIST, LOG_FORMAT="json", LOG_LEVEL="error"))


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["status", "--jsno"], {}, "No such option"),
        (["statsu"], {}, "No such command"),
        (["status"], {"RECONCILE_RATE": "many"}, "RECONCILE_RATE must be"),
    ],
)
def test_an_error_is_one_object_of_its_level(arguments: list[str], environment: dict[str, str], words: str) -> None:
    result = esms_calls(*arguments, LOG_FORMAT="JSON", **environment)

    (line,) = objects(result)
    assert result.returncode == 2
    assert line["level"] == "error"
    assert words in line["event"]


def test_warnings_of_the_log_are_objects_with_their_level() -> None:
    result = esms_calls(
        "reconcile", LOG_FORMAT="json", ESMS_API_URL="http://esms.example", ESMS_API_KEY="k1k1", ESMS_SECRET_KEY="s2s2"
    )

    warnings = [line for line in objects(result) if line["level"] == "warning"]
    assert [line["logger"] for line in warnings] == ["webapp.cli.context"]
    assert "begins with http://" in warnings[0]["event"]


def test_by_default_nothing_is_json() -> None:
    plain = esms_calls("register", stdin=BAD_LIST)

    assert plain.stderr.startswith("line 2: ")
    assert esms_calls("statsu").stderr.startswith("Usage: ")


def test_on_a_terminal_it_stays_text() -> None:
    with a_terminal() as (terminal, end):
        program = Program("statsu", environment={"LOG_FORMAT": "json"}, stderr=Path(os.ttyname(terminal)))
        with program:
            program.wait(timeout=60)
        shown = end()

    assert "Error: No such command" in shown
    assert '"event"' not in shown
