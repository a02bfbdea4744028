"""Every promise in docs/durability.md names the tests that show it, and these exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"U/": "tests/unit/", "I/": "tests/integration/", "S/": "tests/system/"}
TEST = re.compile(r"`((?:tests|[UIS])/[\w/]+\.py)(?:::(\w+))?`")
ROWS = [
    line.strip("| ").rsplit("|", 1)
    for line in (ROOT / "docs/durability.md").read_text().splitlines()
    if line.startswith("|") and "---" not in line and "tests |" not in line and "where |" not in line
]


def test_the_document_has_promises() -> None:
    assert len(ROWS) > 50


@pytest.mark.parametrize(("promise", "tests"), ROWS)
def test_the_tests_that_show_a_promise_exist(promise: str, tests: str) -> None:
    named = TEST.findall(f"{promise} {tests}")
    assert named, "names no test"
    for name, function in named:
        path = ROOT / (FOLDERS.get(name[:2], name[:2]) + name[2:])
        assert path.is_file()
        assert not function or f"def {function}(" in path.read_text()
