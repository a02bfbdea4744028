"""The command status: how things stand."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import status_words
from webapp.cli.context import DONE, PROBLEM, open_context, print_table, spool_of
from webapp.reconcile.run import due_at, lease_of
from webapp.storage.database import Unavailable
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from webapp.storage.reader import Status


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(*, as_json: bool) -> None:
    """Show how things stand. Exit code 1 when something needs a person; then it says what to do.

    The share of the calls settled in the last 24 hours that were settled by lookup is always shown; a person is needed
    when it is more than LOOKUP_SHARE_WARN, for look-ups that settle what is missing hide that callbacks do not come.
    What waits in the spool is shown also while the database cannot be reached (exit code 4).
    """
    settings, now = load_settings(), datetime.now(UTC)
    spool = spool_of(settings).depth()
    try:
        with open_context(writes=False) as context:
            found = context.reader.status(due_at(now, settings))
            name = context.database.name
    except Unavailable:
        _show_standing(
            {"spool": status_words.spool_as_json(spool, now)},
            status_words.spool_as_rows(spool, now),
            list(status_words.spool_needs(spool, now)),
            as_json=as_json,
            title="Spool",
        )
        raise
    known = found, spool, now, lease_of(settings)
    needs = list(status_words.needs(*known, settings.lookup_share_warn))
    values = status_words.as_json(*known) | {"database": name}
    _show_standing(values, status_words.as_rows(*known), needs, as_json=as_json, given_up=found)
    sys.exit(PROBLEM if needs else DONE)


def _show_standing(
    values: dict[str, Any],
    rows: list[tuple[str, Any]],
    needs: list[str],
    *,
    as_json: bool,
    title: str = "Calls",
    given_up: Status | None = None,
) -> None:
    if as_json:
        click.echo(json.dumps(values | {"needs": needs}))
        return
    print_table(title, rows)
    if "database" in values:
        click.echo(f"database: {values['database']}")
    if given_up and given_up.given_up:
        _show_given_up(given_up)
    for need in needs:
        click.echo(f"! {need}")


def _show_given_up(found: Status) -> None:
    click.echo("Given up, oldest placed first:")
    for reference_id in found.given_up_calls:
        click.echo(f"  {reference_id}")
    if found.given_up > len(found.given_up_calls):
        click.echo(f"  and {found.given_up - len(found.given_up_calls)} more")
