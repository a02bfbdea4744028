"""The command hide-phones: brings what is stored already to what PHONE_STORAGE says."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from webapp.cli.context import open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.output import say
from webapp.storage.hide_phones import Hidden, Hiding
from webapp.support.progress import progress


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if numbers are stored that should be hidden.")
def hide_phones(*, check: bool) -> None:
    """Hide the phone numbers that are stored already, as PHONE_STORAGE says now. It cannot be undone.

    With PHONE_STORAGE=hashed numbers become keyed hashes, with none they go; in calls, in their reports with payloads,
    and in rejected callbacks. First set PHONE_STORAGE for all servers and commands and restart the servers: later
    numbers are then hidden as they are stored. The receiver may run meanwhile; interrupting and repeating do no harm.
    A hash does not become a number again. Backups made before still hold the numbers.
    """
    with open_context(writes=not check) as context:
        if context.database.phones.is_plain:
            raise click.UsageError("PHONE_STORAGE is plain: set it to hashed or none first, for the servers, too.")
        hiding = Hiding(context.database, check_only=check)
        hidden, read = Hidden(), 0
        with progress("hiding", None) as show:
            for portion in context.reader.reference_ids():
                hidden = hidden.plus(hiding.in_calls(portion, datetime.now(UTC)))
                read += len(portion)
                show(read, f"calls read, in {hidden.calls} a number")
            for some in hiding.in_rejected():
                hidden = hidden.plus(some)
    words = f"{hidden.calls} calls, {hidden.reports} reports, {hidden.rejected} rejected callbacks"
    say(f"{words} hold numbers that should be hidden" if check else f"hid the numbers in {words}")
    sys.exit(PROBLEM if check and any(hidden) else DONE)
