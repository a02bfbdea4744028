"""The command rollups rebuild, and what other commands need to have figures made anew."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from webapp.cli.context import open_context
from webapp.cli.output import say
from webapp.storage import rollups as figures
from webapp.support.progress import progress

if TYPE_CHECKING:
    from webapp.storage.database import Database

_PAUSE_SECONDS = 0.2


@click.group()
def rollups() -> None:
    """Make the figures of all days anew, from the calls.

    The figures (the table call_rollups, and the views that read it) are kept up to date by the server, and need no
    care. A rebuild is for calls that were changed by SQL, or restored, without this program.
    """


@rollups.command()
def rebuild() -> None:
    """Make all figures anew, from the calls, newest day first.

    The receiver may run meanwhile, and makes some of them: nothing is counted twice. Interrupted, it is finished by the
    server. It takes minutes for 10 million calls.
    """
    with open_context() as context:
        with context.database.snapshot(limited=False) as connection:
            every = figures.every_moment(connection)
        with context.database.transaction() as connection:
            figures.mark(connection, every, datetime.now(UTC))
        days = make_anew(context.database)
    say(f"The figures are up to date: {days} days computed here.")


def make_anew(database: Database) -> int:
    """Refresh until no mark waits that waits now, with progress; how many days this process has computed."""
    newest, total = figures.newest_mark(database), figures.waiting(database, None)
    days = 0
    with progress("computing figures", total) as show:
        left = total
        while left:
            refreshed = figures.refresh(database)
            if refreshed is None:
                time.sleep(_PAUSE_SECONDS)
            else:
                days += len(refreshed.days)
            left = figures.waiting(database, newest)
            show(total - left, f"hours, {days} days")
    return days
