"""The command purge: removes old calls with their history."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from webapp.calls.phone import e164
from webapp.cli.context import open_context
from webapp.cli.exit_codes import DONE, INTERRUPTED, PROBLEM
from webapp.cli.options import Duration
from webapp.cli.output import say
from webapp.cli.rollups import make_anew
from webapp.cli.signals import stop_at_signals
from webapp.cli.time_words import local_time
from webapp.storage.purge import Purge, Purged
from webapp.support.progress import progress

if TYPE_CHECKING:
    import threading
    from datetime import timedelta


@click.command()
@click.option(
    "--older-than",
    type=Duration(),
    help="Calls placed longer ago than this, such as 365d; rejected callbacks that came last longer ago.",
)
@click.option("--phone", help="Only what is about this number, however it is written; without --older-than of any age.")
@click.option("--keep-totals", is_flag=True, help="Let the figures go on counting the removed calls.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say how much would go.")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
def purge(*, older_than: timedelta | None, phone: str | None, keep_totals: bool, dry_run: bool, yes: bool) -> None:
    """Remove old calls with their history, and old rejected callbacks. It cannot be undone.

    The receiver may run meanwhile. Interrupted, or run twice, it does no harm: each batch is whole. With --keep-totals
    the figures of their days (page, report, views) stay, now and after a rebuild; without it the calls go out of them.
    A call that reconcile asks about at this moment stays for the next purge (exit code 1).

    With --phone: all that is held about one person, who may ask for that by law. Hashed numbers are found by the key.

    \b
    Examples:
      esms-calls purge --older-than 365d --dry-run
      esms-calls purge --older-than 365d --keep-totals
      esms-calls purge --phone 0901888484
    """  # noqa: D301 - click wants the control character
    if older_than is None and phone is None:
        raise click.UsageError("Say --older-than, such as 365d, or --phone.")
    if phone is not None and e164(phone) is None:
        raise click.BadParameter(f"{phone!r:.60} is no phone number.", param_hint="--phone")
    with open_context(writes=not dry_run) as context:
        before = None if older_than is None else context.database.now() - older_than
        work = Purge(context.database, before, phone=phone, keep_totals=keep_totals)
        found = work.count()
        until = "any time" if before is None else f"before {local_time(before, context.settings.time_zone)}"
        if dry_run:
            say(f"would remove {_purged_in_words(found)} from {until}")
            return
        if not yes and any(found) and sys.stdin.isatty():
            click.confirm(f"Remove {_purged_in_words(found)} from {until}? It cannot be undone.", abort=True, err=True)
        with stop_at_signals() as stop:
            done = _remove(work, found, stop)
            say(f"removed {_purged_in_words(done)} from {until}")
            if stop.is_set():
                say("Interrupted: the rest is still there. Run it again.", err=True)
                sys.exit(INTERRUPTED)
        left = work.count()
        if done.calls:
            make_anew(context.database)
    if left.calls:
        say(f"{left.calls} calls stay: they are in use now. Run it again.", err=True)
    sys.exit(PROBLEM if left.calls else DONE)


def _remove(work: Purge, found: Purged, stop: threading.Event) -> Purged:
    done = Purged()
    with progress("purging", found.calls) as show:
        while not stop.is_set() and (some := work.remove_calls(datetime.now(UTC))).calls:
            done = Purged(done.calls + some.calls, done.reports + some.reports, 0)
            show(done.calls, f"calls, {done.reports} reports")
    while not stop.is_set() and (some := work.remove_rejected()).rejected:
        done = done._replace(rejected=done.rejected + some.rejected)
    return done


def _purged_in_words(purged: Purged) -> str:
    return f"{purged.calls} calls, {purged.reports} reports, {purged.rejected} rejected callbacks"
