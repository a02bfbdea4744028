"""Which calls the list shows, as its address says: days, campaign, outcome, key, flag, search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from flask_babel import gettext

from webapp.calls.outcome import OUTCOMES
from webapp.storage.filters import CallFilter
from webapp.web.pages.ranges import ALL, Range, WrongRange, read_range

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from zoneinfo import ZoneInfo

FLAGS: dict[str, dict[str, Any]] = {
    "conflict": {"conflict": True},
    "price_conflict": {"price_conflict": True},
    "recovered": {"recovered": True},
    "unregistered": {"registered": False},
    "unconfirmed": {"settled": True, "confirmed": False},
}
"""Values of ``flag``, and what each wants."""
COUNTED = {"conflict": "conflicts", "recovered": "recovered", "unregistered": "unregistered"}
"""The flags that the figures count, and their columns there."""
LIST_PARAMETERS = {"range", "from", "to", "campaign", "outcome", "key", "flag", "q"}
"""The parameters of a list's address."""
KEYS = tuple("0123456789*#")
_LONGEST_SEARCH = 200


class WrongFilter(Exception):
    """What is wrong in the address, in words, with its value."""


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
        days: dict[str, Any] = {}
        if self.range.preset != ALL:
            last = self.range.last + timedelta(days=1)
            days = {"since": _begin(self.range.first, zone), "until": _begin(last, zone)}
        return CallFilter(
            outcomes=(outcome,) if outcome else None,
            ivr=self.key,
            campaign=self.range.campaign,
            **days,
            **FLAGS.get(self.flag or "", {}),
        )


def read_filter(arguments: Mapping[str, str], today: date) -> ListFilter:
    """The filter that an address names; raises WrongFilter."""
    try:
        chosen = read_range(arguments, today, default=ALL)
    except WrongRange as problem:
        raise WrongFilter(str(problem)) from None
    search = arguments.get("q", "").strip()
    if len(search) > _LONGEST_SEARCH or "\0" in search:
        raise WrongFilter(gettext("The search is longer than any id, or not a text."))
    return ListFilter(
        range=chosen,
        outcome=_one_of(OUTCOMES, arguments.get("outcome")),
        key=_one_of(KEYS, arguments.get("key")),
        flag=_one_of(tuple(FLAGS), arguments.get("flag")),
        search=search,
    )


def _one_of(words: tuple[str, ...], value: str | None) -> str | None:
    if value and value not in words:
        choices = ", ".join(words)
        raise WrongFilter(gettext("%(value)s is none of %(choices)s.", value=repr(value[:60]), choices=choices))
    return value or None


def _begin(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
