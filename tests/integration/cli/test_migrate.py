"""The command migrate."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


from commands import done


def test_migrate_says_where_the_database_was_and_is_and_may_be_repeated(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)

    first, second = done("migrate"), done("migrate")

    assert re.search(r" is at migration \d{4} \(was empty\)\.\n$", first)
    assert re.search(r" is at migration \d{4} \(was there already\)\.\n$", second)
    assert json.loads(done("status", "--json"))["calls"] == 0
