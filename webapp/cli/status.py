"""The command status: shows what needs a person, what is stored, and what is missing."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from webapp.cli import status_text
from webapp.cli.context import open_context, spool_of
from webapp.cli.database_remedies import remedy
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.output import printable_line, say, say_json
from webapp.cli.status_needs import StatusMoment, all_needs, database_away, spool_needs
from webapp.cli.tables import print_table
from webapp.storage.claims import due_at, lease_of
from webapp.storage.errors import Unavailable
from webapp.support.settings import load_settings
from webapp.support.tokens import ending

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.callbacks.spool import Depth
    from webapp.storage.status import Status


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; its times are UTC.")
def status(*, as_json: bool) -> None:
    """Show what needs a person, what is stored, and what is missing.

    What is wrong comes first: each line that begins with ! says what to do, the most urgent first, and the exit code is
    then 1. Times are local (TIME_ZONE). `dismiss` takes given-up calls, price conflicts and rejected callbacks off the
    list once a person has seen to them.

    Among the calls settled in the last 24 hours, the share that was settled by lookup is always shown. Look-ups replace
    lost callbacks, and so hide that callbacks get lost: above LOOKUP_SHARE_WARN it needs a person.

    If the database cannot be reached (exit code 4), only the spool is shown.
    """
    settings, now = load_settings(), datetime.now(UTC)
    moment = StatusMoment(
        now=now,
        zone=settings.time_zone,
        lease=lease_of(settings),
        lookup_share_warn=settings.lookup_share_warn,
        spool_limit=settings.spool_limit if settings.spool else 0,
        disk_free=_free(settings.instance_dir) if settings.spool else None,
        token_endings=tuple(map(ending, settings.known_callback_tokens())),
    )
    spool = spool_of(settings).depth()
    try:
        with open_context(writes=False) as context:
            found = context.reader.status(due_at(now, settings))
            name = context.database.name
    except Unavailable as error:
        _show_spool(remedy(error), spool, moment, as_json=as_json)
        raise
    needs = list(all_needs(found, spool, moment))
    if as_json:
        say_json(status_text.status_as_json(found, spool, moment) | {"database": name, "needs": needs})
    else:
        _show_status(found, spool, moment, needs)
        say(f"database: {name}")
    sys.exit(PROBLEM if needs else DONE)


def _free(folder: Path) -> int | None:
    """Bytes free where the folder lies; None: there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _show_status(found: Status, spool: Depth, moment: StatusMoment, needs: list[str]) -> None:
    _show_needs(needs)
    for title, rows in status_text.status_groups(found, spool, moment):
        print_table(title, rows)
    for title, ids, number in (
        ("Given up", found.given_up_calls, found.given_up_to_see_to),
        ("With two prices", found.price_conflict_calls, found.price_conflicts),
    ):
        for line in status_text.listed(title, ids, number):
            say(printable_line(line))


def _show_spool(what_to_do: str, spool: Depth, moment: StatusMoment, *, as_json: bool) -> None:
    needs = [database_away(what_to_do, spool, moment), *spool_needs(spool, moment)]
    if as_json:
        say_json({"spool": status_text.spool_as_json(spool, moment.now), "needs": needs})
        return
    _show_needs(needs)
    print_table("Spool", status_text.spool_rows(spool, moment.now, moment.zone))


def _show_needs(needs: list[str]) -> None:
    for need in needs or ["Nothing needs you."]:
        say(printable_line(f"! {need}" if needs else need))
