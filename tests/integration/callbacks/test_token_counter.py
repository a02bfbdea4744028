"""Callbacks are counted by their token: rarely written, over all processes, and kept while the database is away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from until import until

from webapp.callbacks import token_counter
from webapp.callbacks.token_counter import TokenCounter
from webapp.storage import token_counts
from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database
    from webapp.storage.token_counts import HourCount

TOKENS = ["the-old-token-0123-oLd0", "the-new-token-0123-nEw0"]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each write has added."""
    numbers: list[int] = []
    add = token_counts.add

    def note(connection: Connection, counts: Collection[HourCount], now: datetime) -> None:
        add(connection, counts, now)
        numbers.append(sum(one.count for one in counts))

    monkeypatch.setattr(token_counts, "add", note)
    return numbers


def stored(database: Database) -> dict[str, int]:
    with database.snapshot() as connection:
        uses = token_counts.uses_since(connection, datetime.now(UTC) - timedelta(days=1))
        return {use.token_ending: use.count for use in uses}


def test_right_tokens_of_all_processes_are_added_up_with_one_write_each(database: Database, written: list[int]) -> None:
    processes = [TokenCounter(database) for _ in range(2)]
    for number in range(100):
        processes[number % 2].count_right(TOKENS[number % 4 == 0])
    for process in processes:
        process.close()

    assert stored(database) == {"oLd0": 75, "nEw0": 25}
    assert written == [50, 50]


def test_wrong_tokens_do_not_make_right_ones_be_written_more_often(
    database: Database, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_counter, "_WRITE_PAUSE_SECONDS", 0.01)
    counter = TokenCounter(database)
    counter.count_right(TOKENS[0])
    counter.count_wrong()
    until(lambda: bool(written))
    assert written == [1]
    assert stored(database) == {}
    counter.close()
    assert stored(database) == {"oLd0": 1}


def test_right_tokens_are_written_when_their_minute_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_counter, "_WRITE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(token_counter, "RIGHT_PAUSE_SECONDS", 0.05)
    counter = TokenCounter(database)
    for number in (1, 2):
        counter.count_right(TOKENS[0])
        until(lambda number=number: stored(database) == {"oLd0": number})  # type: ignore[misc]
    counter.close()


def test_counts_wait_while_the_database_is_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = TokenCounter(database)
    counter.count_right(TOKENS[0])
    with monkeypatch.context() as away:
        away.setattr(token_counts, "add", lambda *_: (_ for _ in ()).throw(Unavailable("away")))
        counter.close()
    counter.count_right(TOKENS[0])
    counter.close()

    assert stored(database) == {"oLd0": 2}
