"""The days and the campaign that a page is about, as its address says them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flask_babel import gettext

from webapp.storage.figures import Days
from webapp.support.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

PRESETS = ("today", "yesterday", "7", "30", "90", "365")
"""Values of ``range``: a number is that of days, today included."""
DEFAULT_RANGE = "30"
ALL = "all"
"""Every day there is."""
_EARLIEST, _LATEST = date(1900, 1, 1), date(9000, 1, 1)
_UTC = ZoneInfo("UTC")


class WrongAddress(Exception):
    """What is wrong in the address, in words, with its value."""


@dataclass(frozen=True, slots=True)
class Range:
    """Local days, both inclusive; ``preset`` is the one that was chosen, None: two dates were given."""

    first: date
    last: date
    preset: str | None
    campaign: str | None

    @property
    def days(self) -> Days:
        """As the figures take them."""
        if self.preset == ALL:
            return Days(campaign=self.campaign)
        return Days(self.first, self.last + timedelta(days=1), self.campaign)

    @property
    def length(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1

    def query(self) -> dict[str, str]:
        """The part of an address that says the same."""
        chosen = {"range": self.preset} if self.preset else {"from": f"{self.first}", "to": f"{self.last}"}
        return chosen | ({"campaign": self.campaign} if self.campaign is not None else {})


def read_range(arguments: Mapping[str, str], today: date, default: str = DEFAULT_RANGE) -> Range:
    """The range that an address names; raises WrongAddress."""
    campaign = arguments.get("campaign") or None
    if "\0" in (campaign or ""):
        raise WrongAddress(gettext("No campaign has such a name."))
    given = {name: arguments[name].strip() for name in ("from", "to") if arguments.get(name, "").strip()}
    if not given:
        preset = arguments.get("range") or default
        if preset not in (*PRESETS, ALL):
            raise WrongAddress(gettext("%(value)s is no range of days: choose one above.", value=repr(preset[:60])))
        return _of_preset(preset, today, campaign)
    first, last = (_read_day(given[name]) if name in given else None for name in ("from", "to"))
    last = last or max(today, first or today)
    first = first or last - timedelta(days=int(DEFAULT_RANGE) - 1)
    if first > last:
        text = gettext("The first day, %(first)s, comes after the last, %(last)s.", first=f"{first}", last=f"{last}")
        raise WrongAddress(text)
    return Range(first, last, None, campaign)


def _of_preset(preset: str, today: date, campaign: str | None) -> Range:
    if preset == ALL:
        return Range(_EARLIEST, _LATEST, preset, campaign)
    if preset == "yesterday":
        yesterday = today - timedelta(days=1)
        return Range(yesterday, yesterday, preset, campaign)
    number = 1 if preset == "today" else int(preset)
    return Range(today - timedelta(days=number - 1), today, preset, campaign)


def _read_day(text: str) -> date:
    try:
        found = parse_time(text, _UTC).date()
    except ValueError:
        found = None
    if found is None or not _EARLIEST <= found <= _LATEST:
        raise WrongAddress(
            gettext("%(value)s is no date: write it as 2026-11-23 or 23/11/2026.", value=repr(text[:60]))
        )
    return found
