"""Many rows in one statement: every kind of value is the same afterwards, on both databases, and rows are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import NOW
from sql import write
from sqlalchemy import select, text

from webapp.esms import parameters
from webapp.storage import bulk
from webapp.storage.models import calls, status_reports

if TYPE_CHECKING:
    from sqlalchemy import Table

    from webapp.storage.database import Database

TEXTS = [
    "",
    "plain",
    " spaces\tand\nlines\r\n",
    "quotes ' \" ` $$ %s %(x)s ? :name",
    "back\\slashes \\u0041 \\n",
    "điện thoại, 電話",
    "😀🏳️‍🌈",
    "null",
    "{1,2}",
    "\x01\x7f\u2028",
    "007",
    "x" * 20_000,
]
FIELDS: dict[str, list[Any]] = {
    "call_status": [None, *TEXTS],
    "call_duration": [None, 0, 2_147_483_647],
    "ivr": [None, "*", "#", "007"],
    "send_status": [None, 0, 32_767],
    "price": [None, Decimal("0.0000"), Decimal("450.0000"), Decimal("0.0001"), Decimal("9999999999.9999")],
    "registered_fields": [frozenset(), frozenset({"phone"}), frozenset({"phone", "placed_at", "request_id"})],
    "settled_at": [
        None,
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 11, 23, 10, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 11, 23, 10, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=7))),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
    "conflict": [False, True],
}
MANY = max(map(len, FIELDS.values()))


def call(number: int, **words: Any) -> dict[str, Any]:
    usual = {"placed_at": NOW, "report_count": 0, "created_at": NOW, "updated_at": NOW}
    fields = {name: values[number % len(values)] for name, values in FIELDS.items()}
    return usual | fields | words | {"reference_id": f"call-{number}"}


def stored(database: Database, table: Table, names: Any, key: str) -> list[dict[str, Any]]:
    with database.snapshot(limited=False) as connection:
        found = connection.execute(select(*[table.c[name] for name in names]).order_by(table.c[key])).mappings()
        return [dict(row) for row in found]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["reference_id"]))


def test_every_kind_of_value_is_inserted_and_written_as_it_is(database: Database) -> None:
    rows = [call(number) for number in range(MANY)]

    assert write(database, lambda connection: bulk.insert_absent(connection, calls, rows)) == MANY
    assert stored(database, calls, rows[0], "reference_id") == in_order(rows)

    for shift in range(1, 6):
        turned = [call(number + shift) | {"reference_id": f"call-{number}"} for number in range(MANY)]
        write(database, lambda connection: bulk.update(connection, calls, turned))  # noqa: B023 - at once
        assert stored(database, calls, rows[0], "reference_id") == in_order(turned)


def test_what_is_written_in_bulk_is_as_if_it_were_written_alone(database: Database) -> None:
    """The same bytes, also for those who read them by plain SQL."""
    row = call(4, call_status="it's \\ 😀", registered_fields=frozenset(), price=Decimal("450.0000"), conflict=True)
    alone = row | {"reference_id": "alone"}
    with database.transaction() as connection:
        bulk.insert_absent(connection, calls, [row])
    with database.transaction() as connection:
        connection.execute(calls.insert().values(alone))

    names = ", ".join(name for name in row if name != "reference_id")
    with database.snapshot(limited=False) as connection:
        first, second = connection.execute(text(f"SELECT {names} FROM calls"))  # noqa: S608 - our own columns
        assert tuple(first) == tuple(second)
        if database.is_sqlite:
            kinds = ", ".join(f"typeof({name})" for name in row)
            one, other = connection.execute(text(f"SELECT {kinds} FROM calls"))  # noqa: S608
            assert tuple(one) == tuple(other)


def test_rows_that_are_there_already_are_left_alone_and_not_counted(database: Database) -> None:
    def insert(*numbers: int, **words: Any) -> int:
        rows = [call(number, **words) for number in numbers]
        return write(database, lambda connection: bulk.insert_absent(connection, calls, rows))

    assert insert(1, 2, cid="first") == 2
    assert insert(2, 3, 1, 4, cid="second") == 2
    assert insert(1, 2, cid="third") == 0
    assert insert(5, 5, cid="twice") == 1

    names = ("reference_id", "cid")
    found = [tuple(row.values()) for row in stored(database, calls, names, "reference_id")]
    assert found == [(f"call-{n}", word) for n, word in enumerate(["first", "first", "second", "second", "twice"], 1)]


def test_only_the_columns_that_are_given_are_written_and_only_into_those_rows(database: Database) -> None:
    rows = [call(number, cid="before") for number in range(3)]
    with database.transaction() as connection:
        bulk.insert_absent(connection, calls, rows)

    change: list[dict[str, Any]] = [
        {"cid": None, "reference_id": "call-1"},
        {"cid": "after", "reference_id": "unknown"},
    ]
    with database.transaction() as connection:
        bulk.update(connection, calls, change)

    assert stored(database, calls, rows[0], "reference_id") == [rows[0], rows[1] | {"cid": None}, rows[2]]


def test_ids_and_histories_are_inserted_as_they_are(database: Database) -> None:
    ids = [UUID(int=0), UUID(int=2**128 - 1), parameters.new_id()]
    rows = [
        {
            "id": one,
            "reference_id": "a",
            "source": "callback",
            "received_at": NOW,
            "effect": "settled",
            "payload": "\\\"'é",
        }
        for one in ids
    ]
    assert write(database, lambda connection: bulk.insert_absent(connection, status_reports, rows)) == 3

    assert stored(database, status_reports, rows[0], "id") == sorted(rows, key=lambda row: row["id"].int)  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    price=st.none() | st.decimals(0, Decimal("9999999999.9999"), places=4),
    moment=st.none() | st.datetimes(min_value=datetime(1, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001 - zones follow
)
def test_any_text_price_and_time_is_the_same_afterwards(
    database: Database, words: str, price: Decimal | None, moment: datetime | None
) -> None:
    identifier = str(parameters.new_id())
    row = {"price": price, "phone": words, "settled_at": moment, "reference_id": identifier}
    there = [call(0) | {"reference_id": identifier}]
    with database.transaction() as connection:
        bulk.insert_absent(connection, calls, there)
    with database.transaction() as connection:
        bulk.update(connection, calls, [row])

    with database.snapshot(limited=False) as connection:
        query = select(*[calls.c[name] for name in row]).where(calls.c.reference_id == identifier)
        assert dict(connection.execute(query).mappings().one()) == row


def test_a_time_of_a_controlled_clock_is_a_time(database: Database) -> None:
    class Frozen(datetime):
        pass

    moment = Frozen(2026, 11, 23, 10, tzinfo=UTC)
    with database.transaction() as connection:
        bulk.insert_absent(connection, calls, [call(1, settled_at=moment)])

    with database.snapshot(limited=False) as connection:
        assert connection.scalar(select(calls.c.settled_at)) == datetime(2026, 11, 23, 10, tzinfo=UTC)


def test_value_of_an_unknown_type_raises_a_type_error(database: Database) -> None:
    rows = [call(1, price=1.5)]
    with pytest.raises(TypeError, match="no column holds a float"), database.transaction() as connection:
        bulk.insert_absent(connection, calls, rows)
