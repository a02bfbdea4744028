"""The types of options that several commands have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
    """An option such as 2026-11-23, 23/11/2026 10:00 or today; without a zone it is in TIME_ZONE."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it, or say what is wrong."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value, load_settings().time_zone, datetime.now(UTC))
        except ValueError as error:
            self.fail(str(error), param, ctx)


placed_since = click.option(
    "--since",
    type=Time(),
    help="Only calls placed at this time or later: 2026-11-23, 23/11/2026 14:30, today, yesterday; in TIME_ZONE.",
)
placed_until = click.option("--until", type=Time(), help="Only calls placed before this time.")


def reference_ids(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """A callback for arguments that name calls; in their stored form."""
    return tuple(map(_identity, given))


def reference_id(_: click.Context, __: click.Parameter, given: str) -> str:
    """The same for one call."""
    return _identity(given)


def _identity(given: str) -> str:
    from webapp.esms.parameters import normalise_identity  # noqa: PLC0415 - few commands name calls

    try:
        return normalise_identity(given)
    except ValueError as error:
        raise click.BadParameter(f"{given!r:.60}: an id {error}.") from None
