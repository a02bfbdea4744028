"""How the page writes numbers, shares, prices, days and times, in the language of the request."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from flask_babel import format_date, format_datetime, format_decimal, format_percent, get_locale, gettext

if TYPE_CHECKING:
    from datetime import date, datetime

    from flask import Flask

NONE = "\N{EN DASH}"
"""Written where there is no value."""
_VIETNAM = {"Asia/Ho_Chi_Minh", "Asia/Saigon"}
_MINUTE_SECONDS, _HOUR_SECONDS, _DAY_SECONDS = 60, 3600, 86400


def init_app(app: Flask) -> None:
    """Give the templates these formats as filters."""
    app.jinja_env.filters.update(
        {one.__name__: one for one in (number, percent, points, vnd, day, short_day, weekday, moment, zone, duration)}
    )


def number(value: float | Decimal | None, digits: int = 0) -> str:
    """A number with the separators of the language."""
    if value is None:
        return NONE
    return str(format_decimal(round(value, digits), f"#,##0{'.' + '0' * digits if digits else ''}"))


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0 to 1, as percent."""
    if share is None:
        return NONE
    return str(format_percent(share, f"#,##0{'.' + '0' * digits if digits else ''}%"))


def points(difference: float | None) -> str:
    """A difference of two shares, in percentage points, without its sign."""
    return NONE if difference is None else number(abs(difference) * 100, 1)


def vnd(price: Decimal | int | None) -> str:
    """A price in đồng; its fraction only if it has one."""
    return NONE if price is None else f"{format_decimal(Decimal(price), '#,##0.####')}\N{NO-BREAK SPACE}₫"


def day(value: date | None) -> str:
    """A local day."""
    return NONE if value is None else format_date(value, "dd/MM/yyyy" if _is_vietnamese() else "d MMM yyyy")


def short_day(value: date) -> str:
    """A local day without its year."""
    return str(format_date(value, "d/M" if _is_vietnamese() else "d MMM"))


def month(value: date) -> str:
    """A month with its year."""
    return str(format_date(value, "M/yyyy" if _is_vietnamese() else "MMM yyyy"))


def weekday(number: int) -> str:
    """The short name of a weekday, 1 is Monday."""
    locale: Any = get_locale()
    return str(locale.days["stand-alone"]["abbreviated"][number - 1])


def moment(value: datetime | None) -> str:
    """A local time, to the second."""
    if value is None:
        return NONE
    pattern = "HH:mm:ss dd/MM/yyyy" if _is_vietnamese() else "d MMM yyyy, HH:mm:ss"
    try:
        return str(format_datetime(value, pattern))
    except OverflowError:  # The zone's clocks would leave the years that there are.
        return f"{format_datetime(value, pattern, rebase=False)} UTC"


def zone(name: str, at: datetime) -> str:
    """A time zone, with its distance from UTC at a time."""
    offset = at.astimezone(ZoneInfo(name)).utcoffset() or timedelta()
    minutes = round(offset.total_seconds() / _MINUTE_SECONDS)
    hours, rest = divmod(abs(minutes), _MINUTE_SECONDS)
    distance = f"UTC{'-' if minutes < 0 else '+'}{hours}{f':{rest:02}' if rest else ''}"
    if name in _VIETNAM:
        return str(gettext("Vietnam time (%(distance)s)", distance=distance))
    return name if name == "UTC" else f"{name} ({distance})"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return NONE
    whole = int(seconds)
    if whole < 2 * _MINUTE_SECONDS:
        return str(gettext("%(n)s s", n=number(whole)))
    if whole < 2 * _HOUR_SECONDS:
        return _in_two(
            gettext("%(n)s min", n=whole // _MINUTE_SECONDS),
            gettext("%(n)s s", n=whole % _MINUTE_SECONDS),
            whole % _MINUTE_SECONDS,
        )
    if whole < 2 * _DAY_SECONDS:
        rest = whole % _HOUR_SECONDS // _MINUTE_SECONDS
        return _in_two(gettext("%(n)s h", n=whole // _HOUR_SECONDS), gettext("%(n)s min", n=rest), rest)
    return str(gettext("%(n)s days", n=number(whole // _DAY_SECONDS)))


def _in_two(large: str, small: str, rest: int) -> str:
    return f"{large} {small}" if rest else large


def _is_vietnamese() -> bool:
    locale: Any = get_locale()
    return bool(locale and locale.language == "vi")
