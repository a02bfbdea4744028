"""The command migrate: brings the database's schema up to date."""

from __future__ import annotations

import click

from webapp.cli.context import open_context
from webapp.cli.output import say
from webapp.cli.status_needs import REPLAY_DUE
from webapp.cli.time_zone import agree_on_zone
from webapp.storage import schema


@click.command()
def migrate() -> None:
    """Bring the database to the newest migration. Safe to run again, and by several machines at once.

    Servers of the version before may go on running. On PostgreSQL it waits for its locks one second at a time, for a
    minute: so callbacks do not wait behind a long export. A database that a newer version has migrated stays as it is.
    """
    with open_context(migrated=False) as context:
        before, after = context.database.migrate()
        agree_on_zone(context, may_set=not schema.is_newer(after))
        replay_due = context.reader.replay_due()
    words = "was there already" if before == after else f"was {before or 'empty'}"
    if schema.is_newer(after):
        words = f"a newer version's; this one needs {schema.newest_migration()} and can use it"
    say(f"{context.database.name} is at migration {after} ({words}).")
    if replay_due:
        say(f"Next: {REPLAY_DUE}")
