"""The command reconcile as a service: run after run, through the outages of the database and of eSMS."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from webapp.cli.context import client_of
from webapp.cli.signals import stop_at_signals
from webapp.reconcile.run import Reconciler
from webapp.reconcile.service import Heartbeat, health
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from webapp.cli.context import CliContext
    from webapp.reconcile.run import Clock, Progress
    from webapp.storage.claims import Due

_EVERY = timedelta(seconds=60)
_SOON = timedelta(seconds=30)
"""The longest pause while something is away: it is to be used soon after it is back."""


def watch(
    context: CliContext,
    clock: Clock,
    due: Callable[[], Due],
    every: timedelta | None,
    health_port: int | None,
    show: Callable[[Progress], None],
) -> None:
    """Run again and again until SIGTERM or SIGINT; ``due`` gives the calls that are due by now."""
    every = _EVERY if every is None else every
    heartbeat = Heartbeat()
    watcher = _Watcher(context, clock, heartbeat, show)
    with stop_at_signals() as stop, _health(health_port, heartbeat):
        heartbeat.tell("READY=1")
        while not stop.is_set():
            well = watcher.run(due, stop)
            heartbeat.rest((every if well else min(every, _SOON)).total_seconds(), stop)
        heartbeat.tell("STOPPING=1")


@contextmanager
def _health(port: int | None, heartbeat: Heartbeat) -> Iterator[None]:
    with ExitStack() as until_done:
        try:
            until_done.enter_context(health(port, heartbeat))
        except OSError as error:
            message = f"cannot listen on 127.0.0.1:{port} ({error.strerror}): choose another --health-port."
            raise click.ClickException(message) from None
        yield


class _Watcher:
    """Makes one run after the other, and remembers what the last one left."""

    def __init__(
        self, context: CliContext, clock: Clock, heartbeat: Heartbeat, show: Callable[[Progress], None]
    ) -> None:
        self._room = context
        self._clock = clock
        self._heartbeat = heartbeat
        self._show = show
        self._complaint: str | None = None
        self._left: Reconciler | None = None

    def run(self, due: Callable[[], Due], stop: Event) -> bool:
        """One run, if anything is due; whether database and eSMS were there."""
        try:
            progress = self._run(due, stop)
        except (Unavailable, NotMigrated) as error:
            self._complain(str(error))
            return False
        if self._complaint:
            self._say("The database can be used again.")
            self._complaint = None
        if progress and not progress.other_at_work:
            with suppress(OSError):  # a full disk under the log keeps no call from being asked about
                self._show(progress)
                sys.stdout.flush()
        return not (progress and progress.ended)

    def _run(self, due: Callable[[], Due], stop: Event) -> Progress | None:
        context = self._room
        context.database.check()
        if self._left:
            self._left.abandon()
            self._left = None
        wanted = due()
        if not context.reader.any_due(wanted):
            return None
        client = client_of(context.settings)
        # A few calls that wait their five minutes and more would not be asked about soon after eSMS is back.
        reconciler = Reconciler(
            context.writer, context.reader, client, context.settings, self._clock, silence_is_outage=True
        )
        try:
            return reconciler.run(wanted, limit=None, stop=stop, watch=lambda _: self._heartbeat.beat())
        except Unavailable:
            self._left = reconciler
            raise

    def _complain(self, words: str) -> None:
        """Once for each new trouble: it may last for hours."""
        if words != self._complaint:
            self._say(f"The database cannot be used: {words}\nTrying again every {_SOON.seconds} s.")
        self._complaint = words

    def _say(self, words: str) -> None:
        with suppress(OSError):
            click.echo(redact(words, self._room.settings.secrets()), err=True)
