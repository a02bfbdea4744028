"""The commands spool list, spool export and spool drain."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from webapp.callbacks.circuit_breaker import CircuitBreaker
from webapp.callbacks.drain import Drain
from webapp.callbacks.parsing import request_as_json
from webapp.callbacks.store import CallbackStore
from webapp.cli.context import hint_at_mistyped_names, open_context, spool_of
from webapp.cli.exit_codes import PROBLEM
from webapp.cli.output import printable_line, say, say_all, write_json
from webapp.support.progress import progress
from webapp.support.settings import load_settings
from webapp.support.token_redaction import TokenRedactor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.callbacks.spool import Spool
    from webapp.support.progress import ShowProgress

_PORTION = 1000
_PAUSE_SECONDS = 0.2


@click.group()
def spool() -> None:
    """Show, export or store the callbacks that wait because the database could not take them.

    The spool is a file in INSTANCE_DIR. A running server drains it; these commands work also while none runs.
    """


def _spooled() -> Iterator[dict[str, Any]]:
    """Every callback in the spool, oldest first, with what it says."""
    settings, last = load_settings(), 0
    hint_at_mistyped_names()
    if "instance_dir" not in settings.model_fields_set and not settings.instance_dir.is_dir():
        say(
            f"There is no folder {settings.instance_dir.resolve()}: run it where the server runs, or set INSTANCE_DIR.",
            err=True,
        )
    callbacks, redact = spool_of(settings), TokenRedactor(settings.known_callback_tokens())
    while found := callbacks.oldest(_PORTION, after=last):
        for _, arrival in found:
            yield request_as_json(arrival, redact)
        last = found[-1][0]


@spool.command("list")
def spool_list() -> None:
    """List the callbacks, oldest first.

    Each line has the time of receipt, the report's id, and the call that it is about.
    """
    number = 0
    for arrival in _spooled():
        number += 1
        about = arrival["reference_id"] or f"unreadable: {arrival['reason']}"
        say_all([f"{arrival['received_at']}  {arrival['id']}  {printable_line(about)}"])
    say(f"{number} in the spool" if number else "The spool is empty.", err=True)


@spool.command("export")
def spool_export() -> None:
    """Write the callbacks as JSON Lines.

    Each line, on standard output, has one request as it was received, and what it says.
    """
    for arrival in _spooled():
        write_json(f"{json.dumps(arrival)}\n")


@spool.command("drain")
def spool_drain() -> None:
    """Store all callbacks in the database.

    Returns when the spool is empty; a server may drain it at the same time. Callbacks that the database rejects (by a
    trigger's error) are named and stay in the spool; the exit code is then 1.
    """
    with open_context() as context:
        callbacks = spool_of(context.settings)
        redact = TokenRedactor(context.settings.known_callback_tokens())
        store, breaker = CallbackStore(context.database, redact), CircuitBreaker(can_open=False)
        drain = Drain(callbacks, context.database, store, breaker, redact)
        total = callbacks.depth().reports
        with progress("storing", total) as show:
            left = _drain(drain, callbacks, show)
    if left:
        for identifier, problem in drain.failed.items():
            say(f"{identifier}: {printable_line(problem)}", err=True)
        say(
            f"The database rejects {left} callbacks with these errors; they stay in the spool (esms-calls spool list). "
            "Find what raises the errors, most likely a trigger, correct it, and drain again.",
            err=True,
        )
        sys.exit(PROBLEM)
    say(f"{total} callbacks stored; the spool is empty." if total else "The spool is empty.")


def _drain(drain: Drain, callbacks: Spool, show: ShowProgress) -> int:
    """Store until the spool is empty, or holds only what the database rejects; how many those are."""
    while left := callbacks.depth().reports:
        stored = 0
        for stored in drain.run():
            show(stored, "callbacks")
        if not stored and left == len(drain.failed):
            return left
        time.sleep(_PAUSE_SECONDS)
    return 0
