"""Keeps the figures of whole local days (``call_rollups``) equal to the table of calls.

The writer marks the hours of changed calls in the same transaction. A refresh takes marks, computes their days anew
from one snapshot, and replaces these days' rows and exactly these marks in one transaction, unless another refresh has
written since that snapshot. So no order of events, no late report and no second refresher can make the figures drift:
they are a function of the calls, and of the kept totals (``kept_rollups``) of calls that were purged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    Integer,
    Numeric,
    Text,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    literal,
    null,
    select,
    table,
    text,
    true,
    union,
    union_all,
    update,
)

from webapp.calls.facts import DELAY_EDGES, TALK_EDGES, WITH_OUTCOME, hour_of
from webapp.storage import bulk
from webapp.storage.models import MEASURES, call_rollups, calls, kept_rollups, rollup_marks, rollup_version
from webapp.storage.types import Moment
from webapp.support.yield_to_others import let_others_run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

MARKS_AT_ONCE = 20_000
DAYS_AT_ONCE = 4
"""Of one refresh: it holds their rows in memory, and on SQLite writes them while callbacks wait."""
_ROWS_AT_ONCE = 200
_CAMPAIGN = "coalesce(campaign, '')"
"""As the unique index of kept totals says it."""
_PRICE_UNITS = 10_000
"""Of one VND: prices have four decimals."""

facts = table(
    "call_facts",
    *(column(name, Text) for name in ("reference_id", "campaign", "outcome", "keys_pressed")),
    *(column(name, Integer) for name in ("local_hour", "talk_seconds")),
    *(column(name, Boolean) for name in ("recovered", "confirmed", "conflict", "registered")),
    column("local_day", Date),
    column("callback_seconds", BigInteger),
    column("price_vnd", Numeric),
)
_count_up = update(rollup_version).values(version=rollup_version.c.version + 1)
_FIRST_VERSION = {"one": 1, "version": 1}
stale_days = table("stale_days", column("mark_id", BigInteger), column("first_day", Date), column("last_day", Date))
figures_as_of = table(
    "figures_as_of", column("as_of", Moment), column("time_zone", Text), column("marks_waiting", Integer)
)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What one refresh did: the days that it computed, and whether marks still wait."""

    days: list[date]
    more: bool


class _LostToAnother(Exception):
    """Another refresh, or a new time zone, has replaced figures meanwhile."""


def mark(connection: Connection, moments: Iterable[datetime], now: datetime) -> None:
    """Note that calls placed at these moments have changed, in the transaction that changes them."""
    hours = sorted({hour_of(moment) for moment in moments})
    if hours:
        bulk.insert_absent(connection, rollup_marks, [{"hour": hour, "marked_at": now} for hour in hours])


def mark_everything(connection: Connection, now: datetime) -> None:
    """Note that all figures are to be made anew."""
    mark(connection, every_moment(connection), now)


def every_moment(connection: Connection) -> list[datetime]:
    """What to mark so that all figures are made anew: one of each hour with calls, and of days whose calls are gone."""
    days = union(select(call_rollups.c.local_day), select(kept_rollups.c.local_day)).subquery()
    gone = select(days.c.local_day).where(~exists().where(facts.c.local_day == days.c.local_day))
    zone = ZoneInfo(connection.scalar(select(figures_as_of.c.time_zone)) or "UTC")
    return [
        *_hours_with_calls(connection),
        *(datetime.combine(day, time(12), zone) for day in connection.scalars(gone)),
    ]


def _hours_with_calls(connection: Connection) -> Iterator[datetime]:
    """The hours with calls, each looked up in the index of ``placed_at``: the table is not read."""
    first = select(func.min(calls.c.placed_at))
    at = connection.scalar(first)
    while at:
        yield hour_of(at)
        at = connection.scalar(first.where(calls.c.placed_at > at.replace(minute=59, second=59, microsecond=999999)))


def newest_mark(database: Database) -> int | None:
    """The number of the newest mark that waits; None: none does."""
    with database.snapshot() as connection:
        newest: int | None = connection.scalar(select(func.max(rollup_marks.c.id)))
    return newest


def waiting(database: Database, newest: int | None) -> int:
    """The number of marks that wait, up to the ``newest`` one; None: of all."""
    up_to = [] if newest is None else [rollup_marks.c.id <= newest]
    with database.snapshot() as connection:
        return connection.scalar(select(func.count()).select_from(rollup_marks).where(*up_to)) or 0


def refresh(database: Database) -> Refreshed | None:
    """Compute the newest days that are marked, at most ``DAYS_AT_ONCE``; None if nothing was to be done.

    Does nothing where another process has just done the same. Raises Unavailable.
    """
    with database.snapshot(limited=False) as connection:
        version = connection.scalar(select(rollup_version.c.version))
        days, marks, more = _stale(connection)
        if not days:
            return None
        rows = list(_computed(connection, days))
    try:
        _replace_days(database, version, days, marks, rows)
    except _LostToAnother:
        return None
    return Refreshed(days, more)


def _computed(connection: Connection, days: list[date]) -> Iterator[dict[str, Any]]:
    for portion in connection.execute(_rollups(), {"days": days}).mappings().partitions(_ROWS_AT_ONCE):
        yield from map(dict, portion)
        let_others_run()


def _stale(connection: Connection) -> tuple[list[date], list[int], bool]:
    """The newest marked days, the marks that are about no other day, and whether there are more."""
    last, first = stale_days.c.last_day, stale_days.c.first_day
    newest = select(stale_days.c.mark_id, first, last).order_by(last.desc(), first.desc()).limit(MARKS_AT_ONCE + 1)
    found = connection.execute(newest).all()
    days: set[date] = set()
    marks = []
    for row in found[:MARKS_AT_ONCE]:
        # An hour of a zone such as Asia/Kolkata lies in two days: its mark goes with both.
        both = days | {row.first_day, row.last_day}
        if len(both) <= DAYS_AT_ONCE:
            days = both
            marks.append(row.mark_id)
    return sorted(days), marks, len(found) > len(marks)


def _replace_days(
    database: Database, version: int | None, days: list[date], marks: list[int], rows: Sequence[dict[str, Any]]
) -> None:
    """Replace the days' rows in one transaction; raises _LostToAnother, nothing written, if the version is another."""
    with database.transaction() as connection:
        if not _count_from(connection, version):
            raise _LostToAnother
        is_one_of = bulk.is_one_of_values(rollup_marks.c.id, connection.dialect.name)
        connection.execute(delete(rollup_marks).where(is_one_of), bulk.values(connection, marks))
        connection.execute(delete(call_rollups).where(call_rollups.c.local_day.in_(days)))
        for place in range(0, len(rows), _ROWS_AT_ONCE):
            bulk.insert_absent(connection, call_rollups, rows[place : place + _ROWS_AT_ONCE])


def count_replacement(connection: Connection) -> None:
    """Note that this transaction replaces figures: a refresh that has computed its own by now gives up."""
    if not connection.execute(_count_up).rowcount:
        bulk.insert_absent(connection, rollup_version, [_FIRST_VERSION])


def _count_from(connection: Connection, version: int | None) -> bool:
    """Note that this transaction replaces figures, unless another did since the version was read; None: no row yet."""
    if version is None:
        return bulk.insert_absent(connection, rollup_version, [_FIRST_VERSION]) == 1
    return connection.execute(_count_up.where(rollup_version.c.version == version)).rowcount == 1


def keep_totals(connection: Connection, reference_ids: Collection[str]) -> None:
    """Add these calls to the totals that figures count besides the calls, in the transaction that removes them."""
    connection.execute(_keep(connection.dialect.name), {"reference_ids": list(reference_ids)})


@cache
def _keep(dialect: str) -> Any:
    names = [found.name for found in kept_rollups.columns]
    some = _measured_calls(facts.c.reference_id.in_(bindparam("reference_ids", expanding=True)))
    of_facets = union_all(*(_of_facet(some, *facet) for facet in _facets(some))).subquery()
    statement = bulk.insert_of(kept_rollups, dialect)
    # "WHERE true", or SQLite would take the ON of ON CONFLICT for that of a join.
    added = statement.from_select(names, select(*(of_facets.c[name] for name in names)).where(true()))
    return added.on_conflict_do_update(
        index_elements=[*(kept_rollups.c[name] for name in ("local_day", "facet", "label")), text(_CAMPAIGN)],
        set_={name: kept_rollups.c[name] + added.excluded[name] for name in MEASURES},
    )


@cache
def _rollups() -> Select[Any]:
    """The rows of some days: each facet of each campaign, of the calls without one, and of all together."""
    days = bindparam("days", expanding=True, type_=Date)
    some = _measured_calls(facts.c.local_day.in_(days))
    names = [found.name for found in kept_rollups.columns]
    of_calls = (_of_facet(some, *facet) for facet in _facets(some))
    kept = select(*(kept_rollups.c[name] for name in names)).where(kept_rollups.c.local_day.in_(days))
    of_campaigns = union_all(*of_calls, kept).cte("of_campaigns")
    of_one = of_campaigns.c
    key = (of_one.facet, of_one.local_day, of_one.label)
    sums = [_sum(of_one[name]).label(name) for name in MEASURES]
    by_campaign = select(
        case((of_one.campaign.is_(None), "none"), else_="campaign").label("scope"), of_one.campaign, *key, *sums
    ).group_by(of_one.campaign, *key)
    of_all = select(literal("all", Text).label("scope"), cast(null(), Text).label("campaign"), *key, *sums).group_by(
        *key
    )
    return union_all(by_campaign, of_all)  # type: ignore[return-value]


def _measured_calls(which: ColumnElement[bool]) -> Any:
    """One row a call: its labels, and what is summed up. Read once for all facets."""
    # Each column is computed once: what uses one of the view would compute it anew for each use.
    of = select(facts).where(which).cte("read").prefix_with("MATERIALIZED").c
    answered = of.outcome == "answered"
    flags = {
        "calls": literal(value=True, type_=Boolean),
        "with_outcome": of.outcome.in_(WITH_OUTCOME),
        "answered": answered,
        "timed": of.talk_seconds.is_not(None),
        "unpriced": of.price_vnd.is_(None),
        "recovered": of.recovered,
        "conflicts": of.conflict,
        "confirmed": of.confirmed,
        "unregistered": ~of.registered,
    }
    # Whole numbers: SQLite keeps prices as floats, whose sums depend on their order.
    units = cast(func.round(func.coalesce(of.price_vnd, 0) * _PRICE_UNITS), BigInteger)
    measures = select(
        of.local_day,
        of.campaign,
        of.outcome,
        func.substr(cast(100 + of.local_hour, Text), 2).label("hour"),
        case(
            (~answered, null()),
            (of.keys_pressed.is_(None), "none"),
            (func.length(of.keys_pressed) > 1, "several"),
            else_=of.keys_pressed,
        ).label("key"),
        _class(of.talk_seconds, TALK_EDGES).label("talk"),
        _class(of.callback_seconds, DELAY_EDGES).label("delay"),
        *(case((flag, 1), else_=0).label(name) for name, flag in flags.items()),
        func.coalesce(of.talk_seconds, 0).label("answered_seconds"),
        (units // _PRICE_UNITS).label("price"),
        (units % _PRICE_UNITS).label("price_fraction"),
    )
    return measures.cte("measures").prefix_with("MATERIALIZED")


def _facets(some: Any) -> list[tuple[str, ColumnElement[Any]]]:
    return [(name, some.c[name]) for name in ("outcome", "hour", "key", "talk", "delay")]


def _of_facet(some: Any, facet: str, label: ColumnElement[Any]) -> Select[Any]:
    key = (some.c.campaign, some.c.local_day, label)
    return (
        select(
            some.c.campaign,
            literal(facet, Text).label("facet"),
            some.c.local_day,
            label.label("label"),
            *(_sum(some.c[name]).label(name) for name in MEASURES),
        )
        .where(label.is_not(None))
        .group_by(*key)
    )


def _sum(of: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.sum(of), BigInteger)


def _class(seconds: ColumnElement[Any], edges: tuple[int, ...]) -> ColumnElement[str | None]:
    """The upper edge of the class as text; NULL where the seconds are."""
    steps = [(seconds <= edge, str(edge)) for edge in edges]
    return case((seconds.is_(None), cast(null(), Text)), *steps)
