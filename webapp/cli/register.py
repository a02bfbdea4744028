"""The commands that take calls in and give them out: register, export, replay."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import islice
from typing import BinaryIO

import click

from webapp.cli.context import DONE, PROBLEM, hint_at_commas, open_context
from webapp.cli.export import _AT_ONCE
from webapp.esms.registrations import Lines
from webapp.support import progress as terminal


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
def register(file: BinaryIO) -> None:
    """Register the calls that were placed, so that a missing callback is noticed. Repeatable.

    FILE (by default standard input) is a CSV in UTF-8 whose first line names the columns: reference_id, and
    if you like request_id, phone, campaign and placed_at (ISO 8601; without a zone it is in TIME_ZONE). Other
    columns are ignored. Or it holds one ReferenceId a line. Bad lines are named and skipped (exit code 1).

    \b
    Example:
      printf 'reference_id,phone,campaign\\n066107ee-6ec4-4283-b595-aa74977c65c5,0901888484,june\\n' \\
        | esms-calls register
    """  # noqa: D301 - click wants the control character
    bad = registered = known = 0

    def on_bad(number: int, words: str) -> None:
        nonlocal bad
        bad += 1
        sys.stderr.write(f"line {number}: {words}\n")

    if file.isatty():
        click.echo("Reading from the terminal; Ctrl-D on a line of its own ends it.", err=True)

    with open_context() as context, terminal.progress("registering", None) as tell:
        lines = Lines(file.readline, context.settings.time_zone, on_bad)
        registrations = iter(lines)
        try:
            while portion := list(islice(registrations, _AT_ONCE)):
                new, old = context.writer.register(portion, datetime.now(UTC))
                registered, known = registered + new, known + old
                tell(registered + known, f"calls, {bad} bad lines")
        finally:
            sys.stdout.write(f"registered {registered}, already known {known}, bad lines {bad}\n")
    if lines.header_ignored:
        click.echo(f"ignored columns: {', '.join(lines.header_ignored)}", err=True)
    hint_at_commas(lines)
    sys.exit(PROBLEM if bad else DONE)
