"""All that commands print goes through one module, which lets nothing through that moves a cursor or hides text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from webapp.cli.output import printable_line, say, say_all, say_json
from webapp.support.terminal import printable_json

CLI = Path(__file__).parents[3] / "webapp/cli"
INVISIBLE = [
    *map(chr, (*range(32), *range(127, 160))),
    *"\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ud800\udcff\U000e0041",
]


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_no_command_prints_in_another_way(path: Path) -> None:
    text = path.read_text()
    own_ways = set(re.findall(r"click\.s?echo|\bprint\(|sys\.std(?:out|err)\.write|Console\(", text))

    # The tables go through printable, cell by cell.
    assert own_ways == {"output.py": {"sys.stdout.write"}, "tables.py": {"Console(", "print("}}.get(path.name, set())


@pytest.mark.parametrize("sign", INVISIBLE, ids=ascii)
def test_what_cannot_be_seen_is_shown(sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"before{sign}after")
    say_all([f"before{sign}after"])
    say(f"before{sign}after", err=True)
    said = capsys.readouterr()

    if sign == "\n":
        assert said.out == "before\nafter\n" * 2
    else:
        assert said.out == said.err * 2
        assert re.fullmatch(r"before\\\w+after\n", said.err)
    assert re.fullmatch(r"before\\\w+after", printable_line(f"before{sign}after"))


@pytest.mark.parametrize("text", ["plain", "Đà Nẵng, Tết", "Đa\u0323", "漢字", "🙂", "a b|c"])
def test_what_can_be_seen_stays(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)

    assert capsys.readouterr().out == f"{text}\n"
    assert printable_line(text) == text


@pytest.mark.parametrize("sign", INVISIBLE, ids=ascii)
def test_json_means_the_same_when_it_is_shown(sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": [f"Tết{sign}"]}
    say_json(value)
    said = capsys.readouterr().out

    assert json.loads(said) == value
    assert said.removesuffix("\n").isprintable()
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert shown.isprintable()
