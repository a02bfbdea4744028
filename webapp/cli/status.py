"""The command status: shows what is stored, what is missing, and what needs a person."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import status_text
from webapp.cli.context import open_context, spool_of
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.tables import print_table
from webapp.reconcile.run import due_at, lease_of
from webapp.storage.errors import Unavailable
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from webapp.callbacks.spool import Depth
    from webapp.storage.reader import Status


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, as_json: bool) -> None:
    """Show what is stored, what is missing, and what needs a person.

    If something needs a person, a line that begins with ! says what to do, and the exit code is 1.

    Among the calls settled in the last 24 hours, the share that was settled by lookup is always shown. Look-ups replace
    lost callbacks, and so hide that callbacks get lost: above LOOKUP_SHARE_WARN it needs a person.

    If the database cannot be reached (exit code 4), only the spool is shown.
    """
    settings, now = load_settings(), datetime.now(UTC)
    spool = spool_of(settings).depth()
    try:
        with open_context(writes=False) as context:
            found = context.reader.status(due_at(now, settings))
            name = context.database.name
    except Unavailable:
        _show_spool(spool, now, as_json=as_json)
        raise
    known = found, spool, now, lease_of(settings)
    needs = list(status_text.needs(*known, settings.lookup_share_warn))
    if as_json:
        _print_json(status_text.as_json(*known) | {"database": name}, needs)
    else:
        print_table("Calls", status_text.as_rows(*known))
        click.echo(f"database: {name}")
        _show_given_up(found)
        _show_needs(needs)
    sys.exit(PROBLEM if needs else DONE)


def _show_spool(spool: Depth, now: datetime, *, as_json: bool) -> None:
    needs = list(status_text.spool_needs(spool, now))
    if as_json:
        _print_json({"spool": status_text.spool_as_json(spool, now)}, needs)
    else:
        print_table("Spool", status_text.spool_as_rows(spool, now))
        _show_needs(needs)


def _print_json(values: dict[str, Any], needs: list[str]) -> None:
    click.echo(json.dumps(values | {"needs": needs}))


def _show_given_up(found: Status) -> None:
    if not found.given_up:
        return
    click.echo("Given up, oldest placed first:")
    for reference_id in found.given_up_calls:
        click.echo(f"  {reference_id}")
    if found.given_up > len(found.given_up_calls):
        click.echo(f"  and {found.given_up - len(found.given_up_calls)} more")


def _show_needs(needs: list[str]) -> None:
    for need in needs:
        click.echo(f"! {need}")
