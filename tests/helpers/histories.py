"""Writes histories by chance: everything that changes calls, in any order."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from makers import NOW, at, callback, lookup
from recount import utc
from sqlalchemy import insert, select

from webapp.calls.rule import Registration
from webapp.esms.lookup import LookupAnswer
from webapp.storage.filters import EVERY_CALL
from webapp.storage.models import calls, rollup_marks, status_reports
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table

    from webapp.calls.report import StatusReport
    from webapp.storage.database import Database

NAMES = "abcdefghij"
PLACED = [
    utc("2026-11-22T16:59:59.999700"),  # a day ends in Ha Noi; SQLite would round it to the next
    utc("2026-11-22T17:00:00"),
    utc("2026-11-23T09:59:59.999999"),
    utc("2026-11-23T10:00:00"),
    utc("2026-11-23T18:30:00"),  # a day begins in Kolkata
    None,
]
SAID: list[dict[str, Any]] = [
    {"call_status": "ANSWERED", "call_duration": 5, "ivr": "1"},
    {"call_status": "ANSWERED", "call_duration": 6, "ivr": "12", "price": Decimal("450.1234")},
    {"call_status": "ANSWERED", "price": Decimal("0.1")},
    {"call_status": "NOANSWERED", "call_duration": 9},
    {"call_status": "BUSY", "price": Decimal("9999999999.9999")},
    {"sent_result": 0},
    {"sent_result": 1, "ivr": "#"},
    {"send_status": 7, "ivr": "9", "price": Decimal(1)},
    {"send_status": 4},
    {"send_status": 5},
    {"send_status": 2},
]


def report(chance: random.Random, maker: Callable[..., StatusReport]) -> StatusReport:
    return maker(chance.choice(NAMES), chance.choice([-90000, 0, 0.4, 3, 3, 61, 7200, 90000]), **chance.choice(SAID))


def register(writer: Writer, chance: random.Random) -> None:
    writer.register(
        [
            Registration(
                reference_id=name, campaign=chance.choice([None, "tet", "otp"]), placed_at=chance.choice(PLACED)
            )
            for name in chance.sample(NAMES, 3)
        ],
        at(chance.choice([0, 5000])),
    )


def unregister(writer: Writer, chance: random.Random) -> None:
    writer.unregister(sorted(chance.sample(NAMES, 2)), NOW)


def receive(writer: Writer, chance: random.Random) -> None:
    reports = [report(chance, callback) for _ in range(chance.randint(1, 4))]
    writer.record(reports, NOW)
    if chance.random() < 0.3:
        writer.record(reports[:1], NOW)  # stored already


def look_up(writer: Writer, chance: random.Random) -> None:
    answers = [LookupAnswer(one.reference_id, "100", one) for one in (report(chance, lookup),)]
    writer.conclude(answers, NOW, give_up=timedelta(days=3))


def give_up(writer: Writer, chance: random.Random) -> None:
    """ESMS does not know the call, and it is old; one that is not stored is reported first."""
    name = chance.choice(NAMES)
    writer.record([callback(name, send_status=2)], NOW)
    writer.conclude([LookupAnswer(name, "105")], NOW, give_up=timedelta(days=-9))


def revive(writer: Writer, chance: random.Random) -> None:  # noqa: ARG001 - all do it alike
    writer.reopen(EVERY_CALL, NOW)


def dismiss(writer: Writer, chance: random.Random) -> None:
    writer.dismiss(list(NAMES), NOW, undo=chance.random() < 0.5)


def replay(writer: Writer, chance: random.Random) -> None:  # noqa: ARG001 - all do it alike
    writer.refold(list(NAMES), NOW, check_only=False)


DEEDS = (register, unregister, receive, receive, receive, look_up, look_up, give_up, revive, dismiss, replay)


def write_history(database: Database, seed: int, length: int) -> None:
    """``length`` deeds by chance."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    writer = Writer(database)
    for _ in range(length):
        chance.choice(DEEDS)(writer, chance)


def put_history(database: Database, seed: int, length: int) -> None:
    """The same for those who only read it: after the first time in this process by the rows that it came to."""
    if (seed, length) in _ROWS:
        with database.transaction() as connection:
            for table, rows in _ROWS[seed, length].items():
                connection.execute(insert(table), rows)
        return
    write_history(database, seed, length)
    with database.snapshot() as connection:
        _ROWS[seed, length] = {
            table: [
                dict(row)
                for row in connection.execute(
                    select(*(one for one in table.columns if not (one.computed or one.identity)))
                ).mappings()
            ]
            for table in (calls, status_reports, rollup_marks)
        }


_ROWS: dict[tuple[int, int], dict[Table, list[dict[str, Any]]]] = {}
