"""The command dismiss: notes that a person has seen to what status names."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from webapp.cli.context import open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import reference_ids
from webapp.cli.output import printable_line, say


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", callback=reference_ids)
@click.option("--given-up", is_flag=True, help="All calls that were given up.")
@click.option("--rejected", is_flag=True, help="All rejected callbacks.")
@click.option("--undo", is_flag=True, help="Take it back: status names them again.")
def dismiss(*, ids: tuple[str, ...], given_up: bool, rejected: bool, undo: bool) -> None:
    """Note that a person has seen to calls, or to rejected callbacks: status does not name them again.

    It names a call again when something new happens to it: it is given up, in conflict, or gets another price. A
    conflict of prices itself stays (price_conflict). Ids that are not stored are named (exit code 1).

    \b
    Examples:
      esms-calls dismiss 066107ee-6ec4-4283-b595-aa74977c65c5
      esms-calls dismiss --given-up
    """  # noqa: D301 - click wants the control character
    if not (ids or given_up or rejected):
        raise click.UsageError("Name the calls, or use --given-up or --rejected.")
    now = datetime.now(UTC)
    verb = "taken back" if undo else "dismissed"
    with open_context() as context:
        stored = context.writer.dismiss(ids, now, undo=undo)
        if ids:
            say(f"calls {verb}: {len(stored)}")
        if given_up:
            say(f"given-up calls {verb}: {context.writer.dismiss_given_up(now, undo=undo)}")
        if rejected:
            say(f"rejected callbacks {verb}: {context.writer.dismiss_rejected(now, undo=undo)}")
    unknown = [one for one in dict.fromkeys(ids) if one not in stored]
    for one in unknown:
        say(f"unknown: {printable_line(one)}", err=True)
    sys.exit(PROBLEM if unknown else DONE)
