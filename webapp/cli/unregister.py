"""The command unregister: takes back registrations that were made by mistake."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

import click

from webapp.cli.call_file import CallFile, say_how_to_end
from webapp.cli.context import open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.options import reference_ids
from webapp.cli.output import printable_line, say

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", callback=reference_ids)
@click.option("--file", type=click.File("rb"), help="The calls of a list or CSV, as register takes it; - is stdin.")
def unregister(*, ids: tuple[str, ...], file: BinaryIO | None) -> None:
    """Take back registrations that were made by mistake.

    A call without any report is removed. A call with reports loses what was registered: campaign, phone, request id,
    kind and time are then what the reports say. Ids that are not stored are named (exit code 1).

    \b
    Examples:
      esms-calls unregister 066107ee-6ec4-4283-b595-aa74977c65c5
      esms-calls unregister --file wrong.csv
    """  # noqa: D301 - click wants the control character
    if bool(ids) == bool(file):
        raise click.UsageError("Name the calls, or use --file.")
    if file:
        say_how_to_end(file)
    removed = cleared = unknown = bad = 0
    with open_context() as context:
        given = CallFile(file, context.settings.time_zone) if file else None
        for portion in _portions(ids, given):
            done = context.writer.unregister(portion, datetime.now(UTC))
            removed, cleared, unknown = removed + done.removed, cleared + done.cleared, unknown + len(done.unknown)
            for one in done.unknown:
                say(f"unknown: {printable_line(one)}", err=True)
        bad = given.bad if given else 0
    say(f"removed {removed}, no longer registered {cleared}, unknown {unknown}, bad lines {bad}")
    sys.exit(PROBLEM if unknown or bad else DONE)


def _portions(ids: tuple[str, ...], given: CallFile | None) -> Iterator[list[str]]:
    if given is None:
        yield list(dict.fromkeys(ids))
        return
    for portion in given.portions():
        yield list(dict.fromkeys(registration.reference_id for registration in portion))
