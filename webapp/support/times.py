"""Reads durations and times as people write them."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_LONGEST_DURATION = timedelta(days=3650)
_LONGEST_TEXT = 64
"""Characters; all times are shorter. Checked before anything else reads a text of unknown length."""
_DAYS_AGO = {"today": 0, "hôm nay": 0, "yesterday": 1, "hôm qua": 1}
_CLOCK = r"(?:[ T,]+(?P<clock>[0-9]{1,2}:.+))?"
_DAY_FIRST = re.compile(rf"(?P<day>[0-9]{{1,2}})([/.-])(?P<month>[0-9]{{1,2}})\2(?P<year>[0-9]{{2,4}}){_CLOCK}")
"""``23/11/2026 14:30``, as dates are written in Viet Nam."""
_YEAR_FIRST = re.compile(rf"(?P<year>[0-9]{{4}})/(?P<month>[0-9]{{1,2}})/(?P<day>[0-9]{{1,2}}){_CLOCK}")
"""``2026/11/23 14:30:00``. *documented*: the SendDate of a placed call."""
_ISO = re.compile(r"[0-9W-]+(?:[Tt\s].+)?")
"""Python's reader takes any character before the time: it reads the offset of ``2026-11-23+07:00`` as 07:00 o'clock."""
_END_OF_DAY = re.compile(r"(?P<date>.+[Tt ])24(?P<rest>(?::?00){0,2}(?:[.,]0+)?(?:[Z\s+-].*)?)")
"""``2026-11-23T24:00`` is the midnight that ends the day: ISO 8601 has it, Python 3.11's reader has not."""
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.+-]*)?")
_LAST_MONTH, _YEAR_DIGITS = 12, 4
_EXAMPLES = "2026-11-23, 2026-11-23T10:00:00+07:00 or 23/11/2026 14:30"


def parse_duration(text: object) -> timedelta:
    """``"90s"``, ``"10m"``, ``"72h"`` or ``"7d"``; raises ValueError for anything else."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(str(text).strip()[:_LONGEST_TEXT])
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if length is None or length > _LONGEST_DURATION:
        raise ValueError("must be a whole number and a unit, such as 30s, 10m, 72h or 7d (at most 3650d)")
    return length


def parse_time(text: str, zone: ZoneInfo, now: datetime | None = None) -> datetime:
    """A date or time, in UTC; one without an offset is taken to be in ``zone``. Raises ValueError.

    It is written as in ISO 8601, or with the day first (``23/11/2026 14:30``). With ``now``, which is for people, it
    may also be ``today`` or ``yesterday``: the beginning of that day. A query string turns the ``+`` of an offset into
    a blank; that is undone.
    """
    text = text.strip()
    try:
        moment = _read(text, zone, now) if len(text) <= _LONGEST_TEXT else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        hint = _hint(text) if len(text) <= _LONGEST_TEXT else ""
        raise ValueError(f"{text[:_LONGEST_TEXT]!r:.60} is not a date or time such as {_examples(now)}{hint}")
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    try:
        return aware.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r:.60} lies outside the years that can be stored") from None


def _read(text: str, zone: ZoneInfo, now: datetime | None) -> datetime:
    days_ago = _DAYS_AGO.get(unicodedata.normalize("NFC", text).lower())
    if now is not None and days_ago is not None:
        return datetime.combine(now.astimezone(zone).date() - timedelta(days=days_ago), time())
    if found := _DAY_FIRST.fullmatch(text) or _YEAR_FIRST.fullmatch(text):
        text = _as_iso(**found.groupdict())
    if not _ISO.fullmatch(text):
        raise ValueError
    text = f"{text[:-1]}Z" if text.endswith("z") else text  # RFC 3339 allows it
    if ended := _END_OF_DAY.fullmatch(text):
        return datetime.fromisoformat(_with_plus(f"{ended['date']}00{ended['rest']}")) + timedelta(days=1)
    return datetime.fromisoformat(_with_plus(text))


def _as_iso(*, day: str, month: str, year: str, clock: str | None) -> str:
    if len(year) != _YEAR_DIGITS:
        raise ValueError
    clock = "00:00" if clock is None else clock if clock[1].isdigit() else f"0{clock}"
    return f"{year}-{int(month):02}-{int(day):02}T{clock}"


def _examples(now: datetime | None) -> str:
    return _EXAMPLES if now is None else f"{_EXAMPLES}, today or yesterday"


def _hint(text: str) -> str:
    """What is wrong with a date that is almost one."""
    found = _DAY_FIRST.fullmatch(text)
    if not (found or _YEAR_FIRST.fullmatch(text) or _ISO_DATE.fullmatch(text)):
        return ""
    if found and len(found["year"]) != _YEAR_DIGITS:
        return " (the year must have four digits)"
    if found and int(found["month"]) > _LAST_MONTH:
        return f" (there is no month {int(found['month'])}: the day comes first)"
    return " (there is no such day, or no such time)"


def _with_plus(text: str) -> str:
    moment, blank, offset = text.rpartition(" ")
    has_clock = "T" in moment or ":" in moment
    return f"{moment}+{offset}" if blank and has_clock and offset[0].isdigit() else text
