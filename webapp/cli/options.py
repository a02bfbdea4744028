"""The types of options that several commands have."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from webapp.support.settings import load_settings
from webapp.support.times import parse_duration, parse_time


# click's ParamType is generic only from 8.3 on.
class Duration(click.ParamType):  # type: ignore[type-arg]
    """An option such as 10m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it, or say what is wrong."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Time(click.ParamType):  # type: ignore[type-arg]
    """An option such as 2026-11-23 or 2026-11-23T10:00; without a zone it is in TIME_ZONE."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it, or say what is wrong."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value, load_settings().time_zone)
        except ValueError as error:
            self.fail(str(error), param, ctx)
