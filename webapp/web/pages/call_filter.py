"""Which calls the list shows, as its address says: days, campaign, outcome, key, flag, search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

from flask_babel import gettext

from webapp.calls.outcome import OUTCOMES
from webapp.storage.filters import CallFilter
from webapp.web.pages.ranges import ALL, Range, WrongAddress, read_range

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from zoneinfo import ZoneInfo

FLAGS: dict[str, dict[str, Any]] = {
    "conflict": {"conflict": True},
    "price_conflict": {"price_conflict": True},
    "price_conflict_open": {"price_conflict": True, "dismissed": False},
    "recovered": {"recovered": True},
    "unregistered": {"registered": False},
    "unconfirmed": {"settled": True, "confirmed": False},
    "no_campaign": {"has_campaign": False},
}
"""Values of ``flag``, and what each wants."""
FIGURE_OF_FLAG = {"conflict": "conflicts", "recovered": "recovered", "unregistered": "unregistered"}
"""The flags that the figures count, and their columns there."""
LIST_PARAMETERS = {"range", "from", "to", "campaign", "outcome", "key", "flag", "q"}
"""The parameters of a list's address."""
KEYS = tuple("0123456789*#")
_LONGEST_SEARCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """What was chosen; None is any."""

    range: Range
    outcome: str | None = None
    key: str | None = None
    flag: str | None = None
    search: str = ""

    def query(self, **other: str | None) -> dict[str, str]:
        """The part of an address that says the same; ``other`` replaces, None takes away."""
        chosen: dict[str, str | None] = {
            **self.range.query(),
            "outcome": self.outcome,
            "key": self.key,
            "flag": self.flag,
            "q": self.search,
        }
        return {name: value for name, value in (chosen | other).items() if value and (name, value) != ("range", ALL)}

    def wanted(self, zone: ZoneInfo) -> CallFilter:
        """As the reader takes it. Only answered calls have keys."""
        outcome = self.outcome or ("answered" if self.key else None)
        days = self.range.days
        return CallFilter(
            outcomes=(outcome,) if outcome else None,
            ivr=self.key,
            campaign=days.campaign,
            since=_start_of_day(days.since, zone),
            until=_start_of_day(days.until, zone),
            **FLAGS.get(self.flag or "", {}),
        )


def read_filter(arguments: Mapping[str, str], today: date) -> ListFilter:
    """The filter that an address names; raises WrongAddress."""
    chosen = read_range(arguments, today, default=ALL)
    search = arguments.get("q", "").strip()
    if len(search) > _LONGEST_SEARCH or "\0" in search:
        raise WrongAddress(gettext("The search is longer than any id, or not a text."))
    return ListFilter(
        range=chosen,
        outcome=_checked(OUTCOMES, arguments.get("outcome")),
        key=_checked(KEYS, arguments.get("key")),
        flag=_checked(tuple(FLAGS), arguments.get("flag")),
        search=search,
    )


def _checked(words: tuple[str, ...], value: str | None) -> str | None:
    if value and value not in words:
        choices = ", ".join(words)
        raise WrongAddress(gettext("%(value)s is none of %(choices)s.", value=repr(value[:60]), choices=choices))
    return value or None


def _start_of_day(day: date | None, zone: ZoneInfo) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), zone).astimezone(UTC)
