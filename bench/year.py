"""Fills the program's tables by SQL with a year of calls as a company places them: campaigns, hours, keys, losses.

The figures are computed by the program itself (`esms-calls rollups rebuild`).
"""

# ruff: noqa: S608 - all names and numbers in the statements are our own

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, make_url, text

from bench.fill import POSTGRESQL_ID, SQLITE_ID, without_indexes_on_postgresql, without_indexes_on_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAYS = 365
_ALL_YEAR = (85, 70, 60, 50, 40, 35, 30, 30, 25, 25)
"""Campaigns that never end, the largest with 850,000 of 10 million calls: of 1,000 calls each has as many."""
_OF_A_MONTH = (120, 80, 60, 50, 40, 35, 30, 25, 20, 20, 18, 14, 12, 10, 8, 8)
"""Campaigns that end with a twelfth of the year, when others begin."""
_MONTHS = 12
_AT_ONCE = 500_000
_HANOI = timedelta(hours=7)
# Calls in each local hour, in comparison.
_HOURS = [0] * 6 + [1, 4, 12, 16, 16, 14, 8, 9, 14, 16, 16, 14, 10, 8, 6, 3, 1, 0]
# Each call draws two numbers below 10,000. `o`: answered to 4999 and from 9790, unanswered to 8699, failed at the
# carrier to 8899, busy to 9149, rejected to 9449, delivered to 9749, unknown to 9759, given up to 9784, missing to
# 9789. `p`: recovered below 300, in conflict to 303, in price conflict 304, without a campaign from 9700, not
# registered from 9800.
_SETTLED = "(c.o < 9760 OR c.o >= 9790)"
_ANSWERED = "(c.o < 5000 OR c.o >= 9790)"
_RECOVERED = f"({_SETTLED} AND c.p < 300)"
_CONFLICT = f"({_SETTLED} AND c.p BETWEEN 300 AND 303)"
_VOICE_FINAL = f"({_SETTLED} AND NOT {_RECOVERED})"

_COLUMNS = {
    "reference_id": "c.reference_id",
    "call_status": (
        f"CASE WHEN {_ANSWERED} THEN 'ANSWERED' WHEN c.o < 8700 THEN 'NOANSWERED'"
        " WHEN c.o BETWEEN 8900 AND 9149 THEN 'BUSY' END"
    ),
    "call_duration": f"CASE WHEN {_ANSWERED} THEN 3 + c.talk WHEN c.o < 8700 THEN 0 END",
    "ivr": (
        f"CASE WHEN {_ANSWERED} THEN CASE WHEN c.key < 300 THEN '1' WHEN c.key < 470 THEN '2' WHEN c.key < 540 THEN '0'"
        " WHEN c.key < 570 THEN '3' WHEN c.key < 590 THEN '9' WHEN c.key < 605 THEN '*' WHEN c.key < 615 THEN '#'"
        " WHEN c.key < 620 THEN '12' END END"
    ),
    "send_status": f"CASE WHEN {_SETTLED} THEN CASE WHEN c.o BETWEEN 9150 AND 9449 THEN 4 ELSE 5 END END",
    "sent_result": (f"CASE WHEN {_ANSWERED} OR c.o BETWEEN 9450 AND 9749 THEN 1 WHEN c.o < 8900 THEN 0 END"),
    "price": f"CASE WHEN {_VOICE_FINAL} THEN CASE WHEN {_ANSWERED} THEN 450 * (1 + c.talk / 60) ELSE 0 END END",
    "cid": f"CASE WHEN {_VOICE_FINAL} THEN '02871002454' END",
    "request_id": "CASE WHEN c.n % 5 < 3 THEN 'dh-' || c.n END",
    "phone": "'0' || substr(c.phone_e164, 4)",
    "phone_e164": "c.phone_e164",
    "campaign": "CASE WHEN c.p < 9700 THEN c.campaign END",
    "kind": "CASE WHEN c.o BETWEEN 9450 AND 9749 THEN 'otp' ELSE 'voice' END",
    "esms_id": "c.reference_id",
    "placed_at": "c.placed",
    "registered_at": "CASE WHEN c.p < 9800 THEN c.placed END",
    "callback_at": f"CASE WHEN {_VOICE_FINAL} THEN c.reported END",
    "settled_at": f"CASE WHEN {_SETTLED} THEN c.reported END",
    "settled_by": f"CASE WHEN {_RECOVERED} THEN 'lookup' WHEN {_SETTLED} THEN 'callback' END",
    "confirmed_at": f"CASE WHEN {_RECOVERED} THEN c.reported END",
    "last_reported_at": f"CASE WHEN {_SETTLED} THEN c.reported END",
    "report_count": f"CASE WHEN {_CONFLICT} THEN 2 WHEN {_SETTLED} THEN 1 ELSE 0 END",
    "conflict": f"{_CONFLICT}",
    "price_conflict": f"({_SETTLED} AND c.p = 304)",
    "gave_up_at": "CASE WHEN c.o BETWEEN 9760 AND 9784 THEN c.reported END",
    "lookup_count": "CASE WHEN c.o BETWEEN 9760 AND 9789 THEN 5 WHEN c.p < 300 THEN 1 ELSE 0 END",
    "created_at": "c.placed",
    "updated_at": "c.placed",
}
_REPORT = {
    "reference_id": "c.reference_id",
    "source": "c.settled_by",
    "received_at": "c.settled_at",
    "effect": "'settled'",
    "lookup_code": "CASE WHEN c.settled_by = 'lookup' THEN '100' END",
    **{name: f"c.{name}" for name in ("call_status", "call_duration", "ivr", "send_status", "sent_result")},
    **{name: f"c.{name}" for name in ("price", "cid")},
    "payload": (
        '\'{"ReferenceId": "\' || c.reference_id || \'", "CallStatus": "\' || coalesce(c.call_status, \'\')'
        " || '\", \"Price\": \"' || coalesce(CAST(c.price AS text), '') || '\"}'"
    ),
    "remote_addr": "CASE WHEN c.settled_by = 'callback' THEN '203.113.131.20' END",
}


@dataclass(frozen=True, slots=True)
class Words:
    """How a database says what the filling needs; times are seconds since 1970."""

    uuid: str
    chance: str
    at: str
    integer: str
    identifier: str
    numbers: str


_POSTGRESQL = Words(
    uuid="gen_random_uuid()::text",
    chance="floor(random() * {})::integer",
    at="to_timestamp({})",
    integer="floor({})::bigint",
    identifier=POSTGRESQL_ID,
    numbers="SELECT n FROM generate_series(CAST(:first AS bigint), :last) AS n",
)
_HEX = "lower(hex(randomblob({})))".format
_SQLITE = Words(
    uuid=(
        f"{_HEX(4)} || '-' || {_HEX(2)} || '-4' || substr({_HEX(2)}, 2) || '-a' || substr({_HEX(2)}, 2)"
        f" || '-' || {_HEX(6)}"
    ),
    chance="abs(random() % {})",
    at=(
        "strftime('%Y-%m-%dT%H:%M:%S', CAST({0} AS integer), 'unixepoch')"
        " || printf('.%06dZ', ({0} - CAST({0} AS integer)) * 1000000)"
    ),
    integer="CAST({} AS integer)",
    identifier=SQLITE_ID,
    numbers=(
        "WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"
        " SELECT n FROM numbers"
    ),
)


def fill(database: str, calls: int, show: Callable[[str], None]) -> None:
    """Fill an empty, migrated database with that many calls of the year before now, and their reports.

    Nearly all campaigns have calls each day: the figures are then as many rows as there can be.
    """
    now = datetime.now(UTC)
    local = now + _HANOI
    midnight = datetime(local.year, local.month, local.day, tzinfo=UTC) - _HANOI
    # Enough that those of today that are still to come can be left out.
    rows = math.ceil(calls * DAYS / (DAYS - 1))
    values = {"begin": (midnight - timedelta(days=DAYS - 1)).timestamp(), "now": now.timestamp(), "rows": rows}
    if make_url(database).get_backend_name() == "sqlite":
        with without_indexes_on_sqlite(Path(make_url(database).database or ""), show) as file:
            file.execute("BEGIN")
            for statement, parameters in _statements(_SQLITE, values, show):
                file.execute(statement, parameters)
            file.execute("COMMIT")
        return
    engine = create_engine(database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, without_indexes_on_postgresql(connection, show):
        for statement, parameters in _statements(_POSTGRESQL, values, show):
            connection.execute(text(statement), parameters)
    engine.dispose()


def _statements(
    words: Words, values: dict[str, float], show: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, float]]]:
    """What fills the tables, in portions."""
    yield "CREATE TABLE bench_hours (slot integer PRIMARY KEY, second integer NOT NULL)", {}
    yield "CREATE TABLE bench_campaigns (slot integer PRIMARY KEY, name text NOT NULL)", {}
    hours = ", ".join(f"({slot}, {second})" for slot, second in enumerate(_seconds()))
    yield f"INSERT INTO bench_hours (slot, second) VALUES {hours}", {}
    names = ", ".join(f"({slot}, '{name}')" for slot, name in _campaigns())
    yield f"INSERT INTO bench_campaigns (slot, name) VALUES {names}", {}
    rows = int(values["rows"])
    for first in range(0, rows, _AT_ONCE):
        show(f"{first:,} of {rows:,} calls")
        portion = {"first": first, "last": min(rows, first + _AT_ONCE) - 1}
        yield _calls(words), values | portion
    for effect in ("settled", "conflict"):
        show(f"reports: {effect}")
        yield _reports(words, effect), {}
    yield "DROP TABLE bench_hours", {}
    yield "DROP TABLE bench_campaigns", {}


def _seconds() -> list[int]:
    """Seconds after local midnight, so that as many calls lie between each two."""
    slots = 1000
    total, up_to, found = sum(_HOURS), 0, []
    for hour, weight in enumerate(_HOURS):
        count = (up_to + weight) * slots // total - up_to * slots // total
        found += [hour * 3600 + place * 3600 // count for place in range(count)]
        up_to += weight
    return found


def _campaigns() -> Iterator[tuple[int, str]]:
    """The campaign of each thousandth of the calls of each twelfth of the year: 202 in all."""
    for month in range(_MONTHS):
        names = [(f"campaign-{rank:02}", share) for rank, share in enumerate(_ALL_YEAR)]
        names += [(f"campaign-{month:02}-{rank:02}", share) for rank, share in enumerate(_OF_A_MONTH)]
        thousand = [name for name, share in names for _ in range(share)]
        yield from enumerate(thousand, month * 1000)


def _calls(words: Words) -> str:
    chance = words.chance.format
    day = f"{words.integer.format(f'n * {DAYS} / :rows')}"
    month = words.integer.format(f"n * {_MONTHS} / :rows")
    within = f"(n * {DAYS}.0 / :rows - {day})"
    slot = f"{words.integer.format(f'{within} * 1000')}"
    # Without a limit SQLite would draw anew wherever a number is used.
    drawn = (
        f"SELECT n, {day} AS day, {slot} AS hours, {words.uuid} AS reference_id, {chance(10000)} AS o,"
        f" {chance(10000)} AS p, {chance(1000)} AS key, {chance(60)} + {chance(60)} * {chance(20)} / 10 AS talk,"
        f" {month} * 1000 + {chance(1000)} AS slot, {chance(3_000_000)} AS callee, {chance(1_000_000)} AS rest,"
        f" {chance(60)} * {chance(60)} / 10 AS delay FROM ({words.numbers}) AS numbers LIMIT {_AT_ONCE}"
    )
    placed = "(:begin + day * 86400 + second + rest % 4 + rest / 1000000.0)"
    timed = (
        "SELECT n, reference_id, o, p, key, talk, name AS campaign,"
        " '+849' || substr(CAST(100000000 + callee * 33 AS text), 2) AS phone_e164,"
        f" {placed} AS at_second, CASE WHEN p < 300 THEN 900 + delay ELSE 5 + talk + delay END AS later"
        f" FROM ({drawn}) AS drawn JOIN bench_hours AS h ON h.slot = hours"
        " JOIN bench_campaigns AS g ON g.slot = drawn.slot"
    )
    known = (
        f"SELECT timed.*, {words.at.format('at_second')} AS placed,"
        f" {words.at.format('(at_second + later)')} AS reported"
        f" FROM ({timed}) AS timed WHERE at_second + later < :now"
    )
    return (
        f"INSERT INTO calls ({', '.join(_COLUMNS)}) SELECT {', '.join(_COLUMNS.values())}"
        f" FROM ({known}) AS c ORDER BY c.n"
    )


def _reports(words: Words, effect: str) -> str:
    """The report that settled each call, or the one that each call in conflict got at the same moment."""
    columns, at, condition = _REPORT, "c.settled_at", "c.settled_at IS NOT NULL"
    if effect == "conflict":
        columns = _REPORT | {"effect": "'conflict'", "call_status": "'BUSY'", "lookup_code": "NULL"}
        at, condition = "c.placed_at", "c.conflict"
    identifier = words.identifier.replace("s.at", at).replace("s.reference_id", "c.reference_id")
    return (
        f"INSERT INTO status_reports (id, {', '.join(columns)}) SELECT {identifier}, {', '.join(columns.values())}"
        f" FROM calls AS c WHERE {condition} ORDER BY c.placed_at"
    )
