"""Counts, by the hour, requests to the callback URL: with a wrong token, and with each right one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from webapp.storage import bulk
from webapp.storage.models import callback_token_requests, not_allowed_requests, wrong_token_requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

WRONG_TOKEN, NOT_ALLOWED_ADDRESS = "", "not allowed"
"""What ``HourCount`` has in place of the ending: of a wrong token, and of a right one from an address not allowed."""
_TABLES = {WRONG_TOKEN: wrong_token_requests, NOT_ALLOWED_ADDRESS: not_allowed_requests}
_KEPT = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class HourCount:
    """The requests of one hour, which begins at ``hour``; the last came at ``last_at``. Both UTC.

    ``token_ending``: the last four characters of their token, or what stands in their place.
    """

    hour: datetime
    count: int
    last_at: datetime
    token_ending: str = ""


@dataclass(frozen=True, slots=True)
class TokenUse:
    """How many callbacks came with the token that ends so, and when the last one did."""

    token_ending: str
    count: int
    last_at: datetime


def add(connection: Connection, counts: Collection[HourCount], now: datetime) -> None:
    """Add to the hours; those older than 90 days are deleted."""
    rows = [asdict(one) for one in counts]
    right = [row for row in rows if row["token_ending"] not in _TABLES]
    _add_rows(connection, callback_token_requests, right, now)
    for kind, table in _TABLES.items():
        _add_rows(connection, table, [_without_ending(row) for row in rows if row["token_ending"] == kind], now)


def _without_ending(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "token_ending"}


def _add_rows(connection: Connection, table: Table, rows: list[dict[str, Any]], now: datetime) -> None:
    if not rows:
        return
    bulk.add_up(connection, table, rows, sums=["count"], latest=["last_at"])
    connection.execute(table.delete().where(table.c.hour < now - _KEPT))


def wrong_since(connection: Connection, at: datetime) -> tuple[int, datetime | None]:
    """How many wrong ones came in the hours whose last one came after ``at``, and when the last of all came."""
    return _sum_since(connection, wrong_token_requests, at)


def not_allowed_since(connection: Connection, at: datetime) -> int:
    """How many came from addresses not allowed in the hours whose last one came after ``at``."""
    return _sum_since(connection, not_allowed_requests, at)[0]


def _sum_since(connection: Connection, table: Table, at: datetime) -> tuple[int, datetime | None]:
    query = select(func.coalesce(func.sum(table.c.count), 0), func.max(table.c.last_at)).where(table.c.last_at > at)
    number, last_at = connection.execute(query).one()
    return int(number), last_at


def uses_since(connection: Connection, at: datetime) -> list[TokenUse]:
    """The right tokens in the hours whose last request came after ``at``, the most used first."""
    table = callback_token_requests
    number = func.sum(table.c.count)
    query = (
        select(table.c.token_ending, number, func.max(table.c.last_at))
        .where(table.c.last_at > at)
        .group_by(table.c.token_ending)
        .order_by(number.desc(), table.c.token_ending)
    )
    return [TokenUse(ending, int(count), last_at) for ending, count, last_at in connection.execute(query)]
