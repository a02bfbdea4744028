"""Counts the state of every call, so that the sums match: the completeness ledger.

With 10 million calls on two cores: one pass for the counts (2 s on PostgreSQL, 6 s on SQLite; by day 4 and 6 s, by
campaign 6 and 10 s), and one for the twins (13 and 17 s with 20,000 pairs and 3 million calls that were never
registered). It has no index of its own, which would slow down receiving.
"""

from __future__ import annotations

import string
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, not_, select

from webapp.calls.outcome import OUTCOMES_OF_SETTLED
from webapp.storage.filters import IS_MISSING
from webapp.storage.models import calls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from zoneinfo import ZoneInfo

    from sqlalchemy import CTE, ColumnElement
    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter

_PORTION = 1000
_DAY = timedelta(days=1)
_PUNCTUATION = string.punctuation.encode()
_FIRST_INSTANT, _LAST_INSTANT = datetime.min.replace(tzinfo=UTC) + _DAY, datetime.max.replace(tzinfo=UTC) - 2 * _DAY


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of calls: settled by their first final report, given up or missing, and with other marks.

    ``calls`` is the sum of the five that follow. The others overlap with these. ``lost_and_recovered``: settled by a
    lookup, and no final callback ever came. The last six are the outcomes of the settled calls, in one word each.
    """

    calls: int
    settled_by_callback: int
    settled_by_lookup: int
    gave_up: int
    missing_within_grace: int
    missing_beyond_grace: int
    confirmed: int
    conflict: int
    never_registered: int
    lost_and_recovered: int
    answered: int
    unanswered: int
    other: int
    rejected: int
    delivered: int
    unknown: int

    @property
    def answered_share(self) -> float | None:
        """Answered calls of the answered, unanswered and other ones, from 0 to 1; None: of none."""
        of = self.answered + self.unanswered + self.other
        return self.answered / of if of else None


class Ledger:
    """Counts the calls of one moment; see ``ledger``. Every method can be called again."""

    def __init__(self, connection: Connection, wanted: CallFilter, placed_until: datetime) -> None:
        """Count the ``wanted`` calls; the callback of those placed by ``placed_by`` is overdue."""
        self._connection = connection
        self._wanted = wanted.conditions()
        self._columns = _count_columns(placed_until)

    def whole(self) -> Counts:
        """All calls together: one pass over them."""
        return self._counts()

    def by_day(self, zone: ZoneInfo) -> Iterator[tuple[date, Counts]]:
        """Every day on which calls were placed, by the clocks of ``zone``, earliest first.

        The next day is looked up in the index of ``placed_at`` and its calls are read through it: one pass in all, and
        without the time zones of the database.
        """
        rest: list[ColumnElement[bool]] = []
        while first := self._connection.scalar(select(func.min(calls.c.placed_at)).where(*self._wanted, *rest)):
            day, until = day_of(first, zone)
            yield day, self._counts(*rest, *([] if until is None else [calls.c.placed_at < until]))
            if until is None:
                return
            rest = [calls.c.placed_at >= until]

    def by_campaign(self) -> Iterator[tuple[str | None, Counts]]:
        """Every campaign, one after the other through their index, and last the calls without one."""
        column = calls.c.campaign
        rest = column.is_not(None)
        while (name := self._connection.scalar(select(func.min(column)).where(*self._wanted, rest))) is not None:
            yield name, self._counts(column == name)
            rest = column > name
        without = self._counts(column.is_(None))
        if without.calls:
            yield None, without

    def twins(self) -> Iterator[tuple[str, str]]:
        """Ids that are equal but for punctuation: one registered without a report, one reported and never registered.

        *seen*: eSMS's own pages drop dashes. Every pair of them, sorted and streamed; of the wanted calls those that
        are registered, of all calls those that are not. A pass over the calls and a join of the two kinds.
        """
        unreported = self._bare(
            "unreported", *self._wanted, calls.c.registered_at.is_not(None), calls.c.report_count == 0
        )
        unregistered = self._bare("unregistered", calls.c.registered_at.is_(None), calls.c.report_count > 0)
        pairs = (
            select(unreported.c.reference_id, unregistered.c.reference_id)
            # Ids of punctuation alone would all be equal.
            .where(unreported.c.bare == unregistered.c.bare, unreported.c.bare != "")
            .order_by(unreported.c.reference_id, unregistered.c.reference_id)
        )
        with self._connection.execute(pairs, execution_options={"yield_per": _PORTION}) as rows:
            yield from ((registered, reported) for registered, reported in rows)

    def unknown(self, reference_ids: Sequence[str]) -> list[str]:
        """Those for which there is no call, in the order given."""
        stored = select(calls.c.reference_id).where(calls.c.reference_id.in_(reference_ids))
        known = set(self._connection.scalars(stored))
        return [reference_id for reference_id in reference_ids if reference_id not in known]

    def _counts(self, *conditions: ColumnElement[bool]) -> Counts:
        query = select(*self._columns).select_from(calls).where(*self._wanted, *conditions)
        return Counts(**self._connection.execute(query).mappings().one())

    def _bare(self, name: str, *conditions: ColumnElement[bool]) -> CTE:
        """The ids of some calls, and what is left of these without punctuation."""
        if self._connection.dialect.name == "postgresql":
            bare = func.regexp_replace(calls.c.reference_id, "[^a-z0-9]", "", "g")
        else:
            # SQLite has no regular expressions; it calls a Python function.
            sqlite: Any = self._connection.connection.driver_connection
            sqlite.create_function("without_punctuation", 1, _without_punctuation, deterministic=True)
            bare = func.without_punctuation(calls.c.reference_id)
        some = select(calls.c.reference_id, bare.label("bare")).where(*conditions).cte(name)
        # Without it SQLite joins the table with itself, and no index helps.
        return some.prefix_with("MATERIALIZED", dialect="sqlite")


@contextmanager
def ledger(database: Database, wanted: CallFilter, placed_until: datetime) -> Iterator[Ledger]:
    """The ledger of this moment, for as long as the block lasts; raises ``errors.Unavailable``."""
    with database.snapshot(limited=False) as connection:
        yield Ledger(connection, wanted, placed_until)


def _without_punctuation(reference_id: str) -> str:
    return reference_id.encode().translate(None, _PUNCTUATION).decode()


def _count_columns(placed_until: datetime) -> list[ColumnElement[int]]:
    """The fields of ``Counts``. Of the first five conditions exactly one holds, whatever the row holds."""
    settled = calls.c.settled_at.is_not(None)
    by_lookup = and_(settled, calls.c.settled_by.is_not_distinct_from("lookup"))
    due = calls.c.placed_at <= placed_until
    conditions = {
        "settled_by_callback": and_(settled, calls.c.settled_by.is_distinct_from("lookup")),
        "settled_by_lookup": by_lookup,
        "gave_up": and_(not_(settled), calls.c.gave_up_at.is_not(None)),
        "missing_within_grace": and_(IS_MISSING, not_(due)),
        "missing_beyond_grace": and_(IS_MISSING, due),
        "confirmed": calls.c.confirmed_at.is_not(None),
        "conflict": calls.c.conflict,
        "never_registered": calls.c.registered_at.is_(None),
        "lost_and_recovered": and_(by_lookup, calls.c.callback_at.is_(None)),
        **{str(name): calls.c.outcome == name for name in OUTCOMES_OF_SETTLED},
    }
    number = func.count()
    return [number.label("calls"), *(number.filter(condition).label(name) for name, condition in conditions.items())]


def day_of(moment: datetime, zone: ZoneInfo) -> tuple[date, datetime | None]:
    """The day of that moment in ``zone``, and when the next one begins; None where no calendar has one."""
    day = min(max(moment, _FIRST_INSTANT), _LAST_INSTANT).astimezone(zone).date()
    # A day may have no midnight, or two: the first counts (``fold=0``).
    until = datetime.combine(day + _DAY, time(), zone).astimezone(UTC)
    return day, until if until > moment else None
