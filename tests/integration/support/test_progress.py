"""Progress: a bar on a terminal, lines without one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from makers import NOW, callback

from webapp.calls.rule import Registration
from webapp.support import progress as terminal

if TYPE_CHECKING:
    import pytest

    from webapp.storage.writer import Writer

from commands import ON_SQLITE, SET, many_calls, run_on_a_terminal


def test_progress_is_plain_lines_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.progress("counting", 5000) as tell:
        for number in range(1, 5001):
            tell(number, "[red]calls[/red]")
    with terminal.progress("idling", None):
        pass
    monkeypatch.setattr(terminal, "_EVERY_SECONDS", 0.0)
    with terminal.progress("waiting", None) as tell:
        tell(1, "x" * 300)
        tell(2, "y")

    out, err = capsys.readouterr()
    assert out == ""
    assert err == (f"counting: 5000 of 5000 [red]calls[/red]\nwaiting: 1 {'x' * 300}\nwaiting: 2 y\n")


@ON_SQLITE
@SET
def test_progress_is_a_bar_on_a_terminal_and_output_stays_clean(writer: Writer) -> None:
    many_calls(writer, 3)
    result, shown = run_on_a_terminal("export", shown="errors", TERM="xterm")

    assert result.returncode == 0
    assert "exporting" in shown
    assert "\x1b[" in shown
    assert "3/3" in shown
    assert result.stdout.count("\n") == 4
    assert "\x1b" not in result.stdout


@ON_SQLITE
@SET
def test_on_a_terminal_json_is_one_line_and_a_table_stands_below_the_bar(writer: Writer) -> None:
    writer.register([Registration(reference_id=f"a-{number}") for number in range(30)], NOW)
    writer.record([callback(f"a{number}", 1, call_status="BUSY") for number in range(30)], NOW)
    printed = []
    for options in (["--json"], []):
        result, shown = run_on_a_terminal("completeness", *options, TERM="xterm", COLUMNS="80")
        assert result.returncode == 0
        printed.append(shown)

    assert len(json.loads(printed[0])["twins"]) == 30
    assert printed[0].count("\r\n") == 1
    assert "counting" in printed[1]
    assert "  a-29  a29\r\n" in printed[1]
