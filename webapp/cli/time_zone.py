"""The commands time-zone show and time-zone set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from webapp.cli.context import open_context
from webapp.cli.output import printable_line, say
from webapp.cli.rollups import make_anew
from webapp.storage.time_zone import UnfitZone, has_calls, set_zone, zone_of

if TYPE_CHECKING:
    from webapp.cli.context import CliContext


@click.group("time-zone")
def time_zone() -> None:
    """Show or change the time zone of the days in views and figures.

    It is kept in the database, since SQL has to count the same days for everyone. TIME_ZONE should be the same.
    """


@time_zone.command("show")
def time_zone_show() -> None:
    """Print the time zone of views and figures."""
    with open_context(writes=False) as context, context.database.snapshot() as connection:
        say(printable_line(zone_of(connection)))


@time_zone.command("set")
@click.argument("zone")
def time_zone_set(zone: str) -> None:
    """Count days by the clocks of ZONE, such as Asia/Ho_Chi_Minh, from now on.

    Views and figures are made anew, while the receiver runs. Callbacks wait in the spool while an index is built: 15
    seconds for 10 million calls. On SQLite only zones without summer time can be used.
    """
    new = _zone(zone)
    with open_context() as context:
        try:
            with context.database.transaction() as connection:
                before = zone_of(connection)
                if before == new.key:
                    say(f"The time zone was {new.key} already.")
                    return
                set_zone(connection, new, datetime.now(UTC))
        except UnfitZone as error:
            raise click.UsageError(str(error)) from None
        days = make_anew(context.database)
        setting = context.settings.time_zone.key
    say(f"The time zone is {new.key} now; it was {before}. Figures of {days} days computed here.")
    if setting != new.key:
        say(
            f"Set TIME_ZONE to {new.key}, too, and restart the server: times that people give are in {setting}.",
            err=True,
        )


def agree_on_zone(context: CliContext, *, may_set: bool) -> None:
    """Warn where views and figures have another zone than TIME_ZONE; ``may_set``: give it to a database without calls.

    The database is migrated.
    """
    zone = context.settings.time_zone
    with context.database.snapshot() as connection:
        current, may_set = zone_of(connection), may_set and not has_calls(connection)
    if current == zone.key:
        return
    if may_set:
        try:
            with context.database.transaction() as connection:
                set_zone(connection, zone, datetime.now(UTC))
        except UnfitZone as error:
            say(f"Warning: views and figures count days in {current}. {error}", err=True)
        return
    say(
        f"Warning: TIME_ZONE is {zone.key}, but views and figures count days in {current}: "
        f"run `esms-calls time-zone set {zone.key}`, or set TIME_ZONE to {current}.",
        err=True,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # Some names are folders: Asia.
        raise click.UsageError(
            f"{name!r:.60} is not the name of a time zone, such as Asia/Ho_Chi_Minh or UTC."
        ) from None
