"""The generated column ``outcome`` says the same word as the rule, for every combination of what it depends on."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, callback
from sqlalchemy import select

from webapp.calls.outcome import OUTCOMES, outcome
from webapp.calls.rule import Call
from webapp.esms.finality import SEND_STATUS_REJECTED
from webapp.storage import bulk
from webapp.storage.models import calls

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

CASES = list(
    product(
        (None, NOW),
        (None, NOW),
        (None, "ANSWERED", "NOANSWERED", "BUSY", "answered"),
        (None, 2, 4, 5, 6),
        (None, 0, 1, 2),
    )
)


def test_the_column_and_the_rule_say_the_same_word_for_every_call(database: Database) -> None:
    expected: dict[str, str] = {}
    rows = []
    for number, (settled_at, gave_up_at, call_status, send_status, sent_result) in enumerate(CASES):
        said: dict[str, Any] = {
            "settled_at": settled_at,
            "gave_up_at": gave_up_at,
            "call_status": call_status,
            "send_status": send_status,
            "sent_result": sent_result,
        }
        call = replace(Call(reference_id=f"call-{number}", placed_at=NOW), **said)
        rows.append({"reference_id": call.reference_id, "placed_at": NOW, **said})
        expected[call.reference_id] = outcome(call, SEND_STATUS_REJECTED)
    with database.transaction() as connection:
        bulk.insert_absent(connection, calls, rows)
    with database.snapshot() as connection:
        query = select(calls.c.reference_id, calls.c.outcome)
        stored = {row.reference_id: row.outcome for row in connection.execute(query)}

    assert stored == expected
    assert set(stored.values()) == set(OUTCOMES)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"call_status": "ANSWERED", "send_status": 5}, "answered"),
        ({"call_status": "NOANSWERED"}, "unanswered"),
        ({"sent_result": 0, "send_status": 5, "call_duration": 0}, "unanswered"),
        ({"sent_result": 1, "send_status": 5}, "delivered"),
        ({"call_status": "BUSY", "send_status": 5}, "other"),
        ({"send_status": 4}, "rejected"),
        ({"send_status": 6, "sent_result": 0}, "rejected"),
        ({"send_status": 5}, "unknown"),
        ({"send_status": 7, "call_status": "ANSWERED"}, "missing"),
    ],
)
def test_the_outcome_of_a_callback_is_one_word(writer: Writer, reader: Reader, said: dict[str, Any], word: str) -> None:
    writer.record([callback("a", 1, **said)], NOW)

    call = reader.call("a")
    assert call is not None
    assert call["outcome"] == word
