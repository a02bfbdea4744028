"""The commands on the spool: list, export, drain."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from webapp.callbacks.ingest import Ingest, as_json
from webapp.cli.context import PROBLEM, hint, open_context, spool_of
from webapp.support import log
from webapp.support import progress as terminal
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_ONCE = 1000
_PAUSE_SECONDS = 0.2


@click.group()
def spool() -> None:
    """Look at, take along or store the callbacks that wait because the database could not take them.

    The spool lies in INSTANCE_DIR. The server drains it by itself; these commands work also while it is stopped.
    """


def _spooled() -> Iterator[dict[str, Any]]:
    """Every arrival in the spool, oldest first, with what it says."""
    settings, last = load_settings(), 0
    waiting, clean = spool_of(settings), log.without(settings.secrets())
    while found := waiting.oldest(_AT_ONCE, after=last):
        for _, arrival in found:
            yield as_json(arrival, clean)
        last = found[-1][0]


@spool.command("list")
def spool_list() -> None:
    """List what waits, oldest first: when it was received, its id, and the call that it is about."""
    number = 0
    for arrival in _spooled():
        number += 1
        about = arrival["reference_id"] or f"unreadable: {arrival['reason']}"
        sys.stdout.write(f"{arrival['received_at']}  {arrival['id']}  {about}\n")
    click.echo(f"{number} in the spool" if number else "The spool is empty.", err=True)


@spool.command("export")
def spool_export() -> None:
    """Write what waits as JSON Lines to standard output: the request as it came, and what it says."""
    for arrival in _spooled():
        sys.stdout.write(f"{json.dumps(arrival)}\n")


@spool.command("drain")
def spool_drain() -> None:
    """Store what waits in the database; returns once all is stored. A server that is at it already is waited for.

    Where nothing is left but what the database refuses (a trigger's error), that is named, and the exit code is 1.
    """
    with open_context() as context:
        waiting = spool_of(context.settings)
        clean = log.without(context.settings.secrets())
        ingest = Ingest(context.database, context.writer, waiting, context.settings.answer_within, clean)
        total = waiting.depth().reports
        with terminal.progress("storing", total) as tell:
            portions: list[int] = []

            def watch(stored: int) -> None:
                portions.append(stored)
                tell(stored, "callbacks")

            while left := waiting.depth().reports:
                portions.clear()
                ingest.drain(watch)
                if not portions and left == len(ingest.refused):
                    break
                time.sleep(_PAUSE_SECONDS)
    if left:
        for identifier, problem in ingest.refused.items():
            click.echo(f"{identifier}: {terminal.printable(problem)}", err=True)
        hint(
            f"The database refuses {left} callbacks by these errors; they stay in the spool (esms-calls spool list). "
            "Mend what refuses them, most likely a trigger, and drain again."
        )
        sys.exit(PROBLEM)
    click.echo(f"{total} callbacks stored; the spool is empty." if total else "The spool is empty.")
