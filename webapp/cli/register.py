"""The command register: takes the list of the calls that were placed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

import click

from webapp.cli.call_file import CallFile, say_how_to_end
from webapp.cli.context import CliContext, open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.output import say
from webapp.storage.writer import Registered
from webapp.support.progress import progress

if TYPE_CHECKING:
    from webapp.calls.rule import Registration


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--check", is_flag=True, help="Register nothing; read the whole file, and say what would be registered.")
def register(file: BinaryIO, *, check: bool) -> None:
    """Register the calls that were placed, so that a missing callback is noticed. Repeatable.

    FILE (by default standard input) is a CSV in UTF-8 whose first line names the columns: reference_id (or
    ReferenceId, SMSID), and optionally request_id, phone, campaign, kind (voice or otp) and placed_at (such as
    2026-11-23T10:00, 23/11/2026 10:00 or today; without a zone it is in TIME_ZONE). Commas, semicolons, tabs or bars
    stand between the values; other columns are ignored. Or it has one ReferenceId on each line.

    Bad lines are skipped, and the first 20 of them named (exit code 1). A file that has columns and no header is
    refused as a whole (exit code 2). "changed" counts those of the known calls to which a value is new.

    \b
    Example:
      printf 'reference_id,phone,campaign\\n066107ee-6ec4-4283-b595-aa74977c65c5,0901888484,june\\n' \\
        | esms-calls register
    """  # noqa: D301 - click wants the control character
    say_how_to_end(file)
    with open_context(writes=not check) as context, progress("registering", None) as show:
        given = CallFile(file, context.settings.time_zone)
        registering = _Registering(context, check_only=check)
        try:
            for portion in given.portions():
                registering.take(portion)
                show(registering.done.new + registering.done.already_known, f"calls, {given.bad} bad lines")
        finally:
            verb, after = ("would register", "; nothing was registered") if check else ("registered", "")
            done = registering.done
            say(
                f"{verb} {done.new}, already known {done.already_known}, changed {done.changed}, "
                f"bad lines {given.bad}{after}"
            )
    sys.exit(PROBLEM if given.bad else DONE)


class _Registering:
    """Registers portions, or only finds out what that would do, and counts."""

    def __init__(self, context: CliContext, *, check_only: bool) -> None:
        self._writer = context.writer
        self._check_only = check_only
        self._checked: set[str] = set()
        self.done = Registered()

    def take(self, portion: list[Registration]) -> None:
        self.done += self._check(portion) if self._check_only else self._writer.register(portion, datetime.now(UTC))

    def _check(self, portion: list[Registration]) -> Registered:
        """What registering would do; a call of an earlier portion would be known by now."""
        found = self._writer.would_register(portion, datetime.now(UTC), checked=self._checked)
        self._checked.update(registration.reference_id for registration in portion)
        return found
