"""What the store expects of a batch saves statements, and changes nothing where it is wrong."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from makers import by_reports, stored_call, stored_reports
from sqlalchemy import Engine, event, func, select

from webapp.callbacks.batch_writer import Batch, Pending
from webapp.callbacks.parsing import ParsedCallback, parse
from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.store import Accepted, CallbackStore, StoreResult
from webapp.calls import rule
from webapp.calls.rule import Call, Registration
from webapp.esms import parameters
from webapp.storage.models import rejected_callbacks
from webapp.support.token_redaction import NO_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer


@contextmanager
def statements() -> Iterator[list[str]]:
    """The first two words of each statement that reads or changes rows in the block."""
    seen: list[str] = []

    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(" ".join(statement.split()[:2]))

    event.listen(Engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", see)


def request(reference_id: str, words: str = "CallStatus=ANSWERED&SendStatus=5") -> CallbackRequest:
    return CallbackRequest(
        id=parameters.new_id(),
        received_at=datetime.now(UTC),
        method="GET",
        content_type=None,
        query=f"ReferenceId={reference_id}&{words}".encode(),
        body=b"",
        remote_addr="203.0.113.7",
    )


def store_together(store: CallbackStore, *requests: CallbackRequest) -> list[Any]:
    """What becomes of requests that arrive at once, as the batch writer stores them."""
    queue: deque[Pending[ParsedCallback, StoreResult]] = deque(Pending(parse(one, NO_TOKENS)) for one in requests)
    return list(store.write_batch(Batch(queue=queue)))


@pytest.fixture
def store(database: Database) -> CallbackStore:
    return CallbackStore(database)


def test_after_a_batch_of_new_calls_the_next_one_is_stored_without_a_select(store: CallbackStore) -> None:
    store_together(store, *(request(f"a{number}") for number in range(5)))

    with statements() as seen:
        results = store_together(store, *(request(f"b{number}") for number in range(5)))

    assert results == [Accepted("settled", f"b{number}") for number in range(5)]
    assert [one for one in seen if one.startswith("SELECT")] == []


def test_rejects_and_reports_of_a_batch_are_stored_in_one_transaction_a_flood_of_rejects_too(
    store: CallbackStore, database: Database
) -> None:
    no_id = [request("", f"Price={number}") for number in range(150)]
    commits: list[Any] = []

    def note(connection: Any) -> None:
        commits.append(connection)

    event.listen(Engine, "commit", note)
    try:
        results = store_together(store, *no_id[:75], request("a"), *no_id[75:], request("b"))
    finally:
        event.remove(Engine, "commit", note)

    assert len(commits) == 1
    assert [type(one).__name__ for one in results] == [
        *["NotAccepted"] * 75,
        "Accepted",
        *["NotAccepted"] * 75,
        "Accepted",
    ]
    assert stored_call(database, "a").settled
    with database.snapshot() as connection:
        assert connection.scalar(select(func.count()).select_from(rejected_callbacks)) == 150


def test_effects_of_reports_that_just_came_are_not_looked_up(store: CallbackStore, writer: Writer) -> None:
    names = [f"a{number}" for number in range(5)]
    writer.register([Registration(reference_id=name) for name in names], datetime.now(UTC))

    with statements() as seen:
        store_together(store, *map(request, names))

    assert len([one for one in seen if one.startswith("SELECT")]) == 1


def test_calls_expected_to_be_absent_that_are_not_are_folded_onto_what_is_stored(
    store: CallbackStore, writer: Writer, database: Database
) -> None:
    writer.register([Registration(reference_id="b2", campaign="OTP")], datetime.now(UTC))
    store_together(store, *(request(f"a{number}") for number in range(5)))

    said = [request(f"b{number}") for number in range(5)]
    results = store_together(store, *said, request("a1", "CallStatus=NOANSWERED&SendStatus=5"))

    assert results == [*(Accepted("settled", f"b{number}") for number in range(5)), Accepted("conflict", "a1")]
    assert stored_call(database, "b2").campaign == "OTP"
    assert [stored_call(database, name).report_count for name in ("a1", "b2", "b4")] == [2, 1, 1]
    reports = stored_reports(database, "a1")
    begun = Call(reference_id="a1", placed_at=reports[0].received_at)
    assert by_reports(stored_call(database, "a1")) == by_reports(rule.fold_all(begun, reports))


def test_a_report_that_is_stored_already_has_the_effect_that_it_had(store: CallbackStore, database: Database) -> None:
    first = [request(f"a{number}") for number in range(5)]
    store_together(store, *first)

    assert store_together(store, *first) == [Accepted("settled", f"a{number}") for number in range(5)]
    assert store_together(store, first[0], request("b")) == [Accepted("settled", "a0"), Accepted("settled", "b")]
    assert [len(stored_reports(database, name)) for name in ("a0", "a4", "b")] == [1, 1, 1]
