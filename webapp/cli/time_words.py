"""Times for people: local time, and how long ago that was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from zoneinfo import ZoneInfo

_MINUTE_SECONDS, _HOUR_SECONDS, _DAY_SECONDS = 60, 3600, 86400


def local_time(moment: datetime, zone: ZoneInfo) -> str:
    """``2026-11-23 17:00:00``; in UTC where the zone's clocks would leave the years that there are."""
    try:
        return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def duration(length: timedelta) -> str:
    """``45 s``, ``5 min``, ``2 h 10 min`` or ``3 d 4 h``: what is over, as on the page, is left out."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 2 * _MINUTE_SECONDS:
        return f"{seconds} s"
    if seconds < 2 * _HOUR_SECONDS:
        return f"{seconds // _MINUTE_SECONDS} min"
    if seconds < 2 * _DAY_SECONDS:
        return f"{seconds // _HOUR_SECONDS} h {seconds % _HOUR_SECONDS // _MINUTE_SECONDS} min"
    return f"{seconds // _DAY_SECONDS} d {seconds % _DAY_SECONDS // _HOUR_SECONDS} h"


def time_and_age(moment: datetime | None, now: datetime, zone: ZoneInfo) -> str:
    """``2026-11-23 17:00:00 (5 min ago)``, ``none`` for None."""
    return f"{local_time(moment, zone)} ({duration(now - moment)} ago)" if moment else "none"
