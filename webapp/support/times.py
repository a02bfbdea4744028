"""The settings: one frozen value, read from the environment and ``.env``, and the words for what is wrong with them.

Knows no Flask and opens no connection. Of the file system it touches only ``.env`` and the kept tokens.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=3650)


def parse_duration(text: object) -> timedelta:
    """``"90s"``, ``"10m"``, ``"72h"`` or ``"7d"`` as a length of time; raises ValueError for anything else."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", str(text).strip())
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if length is None or length > _LONGEST:
        raise ValueError("must be a whole number and a unit, such as 30s, 10m, 72h or 7d (at most 3650d)")
    return length


def parse_time(text: str, zone: ZoneInfo) -> datetime:
    """An ISO 8601 date or time that a person gave, as an aware time; without a zone of its own it is in ``zone``.

    Raises ValueError. The ``+`` of an offset that a query string turned into a blank is mended.
    """
    mended = re.sub(r"(T.*) (\d\d(:?\d\d)?)$", r"\1+\2", text.strip())
    try:
        moment = datetime.fromisoformat(mended)
    except ValueError:
        raise ValueError(
            f"{text!r:.60} is not an ISO 8601 date or time, such as 2026-11-23 or 2026-11-23T10:00:00+07:00"
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    try:
        return aware.astimezone(ZoneInfo("UTC"))
    except OverflowError:
        raise ValueError(f"{text!r:.60} lies outside the years that can be stored") from None
