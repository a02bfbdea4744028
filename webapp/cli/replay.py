"""The command replay: folds the stored history again, or reads rejected callbacks again."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click
from sqlalchemy.exc import DataError, IntegrityError

from webapp.callbacks.parsing import report_from_request
from webapp.cli.context import CliContext, open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import Time
from webapp.esms import parameters
from webapp.storage.errors import WriteFailed
from webapp.support.progress import progress
from webapp.support.redaction import redactor


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; name the calls that differ, exit code 1 if there are any.")
@click.option("--rejected", is_flag=True, help="Read rejected callbacks again, and store those that can be read now.")
@click.option("--since", type=Time(), help="With --rejected: only those received at this time or later.")
def replay(*, check: bool, rejected: bool, since: datetime | None) -> None:
    """Fold the whole history again by the rule, and correct the calls that differ from it.

    With --rejected: read rejected callbacks again, after an upgrade that can read them. Both are safe to repeat.
    """
    if check and rejected:
        raise click.UsageError("--check and --rejected do not go together.")
    if since and not rejected:
        raise click.UsageError("--since goes with --rejected.")
    with open_context(writes=not check) as context:
        if rejected:
            _replay_rejected(context, since)
            return
        differing = _replay_history(context, check_only=check)
    sys.exit(PROBLEM if check and differing else DONE)


def _replay_history(context: CliContext, *, check_only: bool) -> int:
    done = differing = 0
    with progress("replaying", None) as show:
        for portion in context.reader.reference_ids():
            found = context.writer.refold(portion, datetime.now(UTC), check_only=check_only)
            sys.stdout.writelines(f"{reference_id}\n" for reference_id in found)
            done, differing = done + len(portion), differing + len(found)
            show(done, f"calls, {differing} differ")
    verb = "differ from their history" if check_only else "differed from their history and were corrected"
    click.echo(f"{done} calls read, {differing} {verb}", err=True)
    return differing


def _replay_rejected(context: CliContext, since: datetime | None) -> None:
    stored = unreadable = 0
    redact = redactor(context.settings.secrets())
    for rejected in context.reader.rejected(since):
        try:
            report = report_from_request(rejected, redact)
            effect = context.writer.replay_rejected(report, datetime.now(UTC))
        except (ValueError, parameters.Unreadable, DataError, IntegrityError, WriteFailed):
            unreadable += 1
            continue
        stored += 1
        click.echo(f"{report.reference_id} {effect}")
    click.echo(f"{stored} rejected callbacks stored, {unreadable} still cannot be read", err=True)
