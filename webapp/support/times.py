"""Reads durations and times as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_LONGEST_DURATION = timedelta(days=3650)
_LONGEST_TEXT = 64
"""Characters; all ISO 8601 times are shorter. Checked before anything else reads a text of unknown length."""


def parse_duration(text: object) -> timedelta:
    """``"90s"``, ``"10m"``, ``"72h"`` or ``"7d"``; raises ValueError for anything else."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(str(text).strip()[:_LONGEST_TEXT])
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if length is None or length > _LONGEST_DURATION:
        raise ValueError("must be a whole number and a unit, such as 30s, 10m, 72h or 7d (at most 3650d)")
    return length


def parse_time(text: str, zone: ZoneInfo) -> datetime:
    """An ISO 8601 date or time, in UTC; one without an offset is taken to be in ``zone``. Raises ValueError.

    A query string turns the ``+`` of an offset into a blank; that is undone.
    """
    text = text.strip()
    try:
        moment = datetime.fromisoformat(_with_plus(text) if len(text) <= _LONGEST_TEXT else "")
    except ValueError:
        raise ValueError(
            f"{text[:_LONGEST_TEXT]!r:.60} is not an ISO 8601 date or time, "
            "such as 2026-11-23 or 2026-11-23T10:00:00+07:00"
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    try:
        return aware.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r:.60} lies outside the years that can be stored") from None


def _with_plus(text: str) -> str:
    time, blank, offset = text.rpartition(" ")
    return f"{time}+{offset}" if blank and "T" in time and offset[0].isdigit() else text
