"""The command migrate: brings the database's schema up to date."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from webapp.cli.context import open_context
from webapp.cli.output import say
from webapp.cli.status_needs import REPLAY_DUE
from webapp.cli.time_zone import agree_on_zone
from webapp.storage import schema
from webapp.storage.partitions import split_reports


@click.command()
@click.option("--partition-reports", is_flag=True, help="Then split status_reports by month (PostgreSQL only).")
def migrate(*, partition_reports: bool) -> None:
    """Bring the database to the newest migration. Safe to run again, and by several machines at once.

    Servers of the version before may go on running. On PostgreSQL it waits for its locks one second at a time, for a
    minute: so callbacks do not wait behind a long export. A database that a newer version has migrated stays as it is.

    --partition-reports gives status_reports a partition for each month of the next two years; what is stored stays in
    one of its own. Callbacks wait in the spool meanwhile, 20 seconds with 2 million reports. Run it again once a
    year, for the months that follow. docs/scale.md says how a month is removed.
    """
    with open_context(migrated=False) as context:
        if partition_reports and context.database.is_sqlite:
            raise click.UsageError(
                "--partition-reports: SQLite has no partitions. Use it with PostgreSQL (DATABASE_URL)."
            )
        before, after = context.database.migrate()
        agree_on_zone(context, may_set=not schema.is_newer(after))
        made = split_reports(context.database, datetime.now(UTC)) if partition_reports else None
        replay_due = context.reader.replay_due()
    words = "was there already" if before == after else f"was {before or 'empty'}"
    if schema.is_newer(after):
        words = f"a newer version's; this one needs {schema.newest_migration()} and can use it"
    say(f"{context.database.name} is at migration {after} ({words}).")
    if made is not None:
        say(f"status_reports is split by month: {len(made)} partitions are new{f', to {made[-1]}' if made else ''}.")
    if replay_due:
        say(f"Next: {REPLAY_DUE}")
