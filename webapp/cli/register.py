"""The command register: takes the list of the calls that were placed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import BinaryIO

import click

from webapp.cli.call_list import CallList, say_how_to_end
from webapp.cli.context import open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.support.progress import progress


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
def register(file: BinaryIO) -> None:
    """Register the calls that were placed, so that a missing callback is noticed. Repeatable.

    FILE (by default standard input) is a CSV in UTF-8 whose first line names the columns: reference_id, and
    optionally request_id, phone, campaign, kind (voice or otp) and placed_at (ISO 8601; without a zone it is
    in TIME_ZONE). Other columns are ignored. Or it has one ReferenceId on each line. Bad lines are
    named and skipped (exit code 1).

    \b
    Example:
      printf 'reference_id,phone,campaign\\n066107ee-6ec4-4283-b595-aa74977c65c5,0901888484,june\\n' \\
        | esms-calls register
    """  # noqa: D301 - click wants the control character
    registered = known = changed = 0
    say_how_to_end(file)
    with open_context() as context, progress("registering", None) as show:
        given = CallList(file, context.settings.time_zone)
        try:
            for portion in given.portions():
                done = context.writer.register(portion, datetime.now(UTC))
                registered, known, changed = registered + done.new, known + done.already_known, changed + done.changed
                show(registered + known, f"calls, {given.bad} bad lines")
        finally:
            sys.stdout.write(
                f"registered {registered}, already known {known} ({changed} of them changed), bad lines {given.bad}\n"
            )
    if given.ignored_columns:
        click.echo(f"ignored columns: {', '.join(given.ignored_columns)}", err=True)
    given.hint_at_commas()
    sys.exit(PROBLEM if given.bad else DONE)
