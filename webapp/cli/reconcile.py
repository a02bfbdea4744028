"""The command reconcile: reads its options, runs, and shows the results."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import lookup_words, status_needs
from webapp.cli.context import CliContext, client_of, open_context
from webapp.cli.exit_codes import DONE, PROBLEM, REFUSED
from webapp.cli.options import Duration, placed_since, placed_until, reference_ids
from webapp.cli.output import printable_line, say, say_json
from webapp.cli.signals import stop_at_signals
from webapp.cli.tables import print_table
from webapp.cli.time_words import local_time
from webapp.reconcile.run import Progress, Reconciler
from webapp.reconcile.watch import LONGEST_DATABASE_PAUSE, DatabaseChange, Idle, Watch, Watchdog, health_endpoint
from webapp.storage.claims import due_at
from webapp.storage.errors import Unavailable
from webapp.storage.filters import CallFilter
from webapp.storage.types import plain
from webapp.support.progress import progress as show_progress
from webapp.support.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.claims import Due
    from webapp.support.progress import ShowProgress

_SHOWN_REFERENCES = 20
_FIGURES = ("outcome", "checked", "settled", "pending", "not_found", "failed", "gave_up")
_LONGEST_TRANSACTION = timedelta(minutes=2)
_EVERY = timedelta(seconds=60)


@click.command()
@click.option(
    "--older-than",
    type=Duration(),
    help="Ask about missing calls that were placed at least this long ago: 0s, 10m or 2h.  [default: RECONCILE_GRACE]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask about this many calls at most.")
@click.option("--campaign", metavar="NAME", help="Only calls of this campaign.")
@placed_since
@placed_until
@click.option(
    "--reference-id",
    "wanted_ids",
    multiple=True,
    callback=reference_ids,
    metavar="ID",
    help="Only this call, if it is due; may be repeated; upper and lower case are the same.",
)
@click.option("--retry-given-up", is_flag=True, help="First make all calls that were given up due again.")
@click.option("--dry-run", is_flag=True, help="Only show how many calls are due, and which. Asks and writes nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object; failures go to stderr.")
@click.option("--watch", "as_service", is_flag=True, help="Run again and again, as a service.")
@click.option("--every", type=Duration(), help="With --watch: the pause between two runs.  [default: 60s]")
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="With --watch: answer 200 at http://127.0.0.1:PORT/healthz while the service is working.",
)
def reconcile(
    *,
    older_than: timedelta | None,
    limit: int | None,
    campaign: str | None,
    since: datetime | None,
    until: datetime | None,
    wanted_ids: tuple[str, ...],
    retry_given_up: bool,
    dry_run: bool,
    as_json: bool,
    as_service: bool,
    every: timedelta | None,
    health_port: int | None,
) -> None:
    """Ask eSMS (GetSendStatus) about every call whose result never came, and about calls in conflict.

    Registered calls come first; while they are due, those known from callbacks alone get one look-up in ten. Of each,
    those never asked about come first, then those that have been due the longest. Several runs, on one
    machine or on many, share the calls and one rate (RECONCILE_RATE). When eSMS rate-limits look-ups, the rate is
    halved and recovers within minutes. A call that stays open is asked about again after 5 minutes, doubling up to
    6 hours, or up to 30 minutes where no answer came. After 30 look-ups in a row without an answer the run ends.
    Ctrl-C and SIGTERM end it once the look-ups in flight have their answers. Needs ESMS_API_KEY and ESMS_SECRET_KEY.

    \b
    Exit codes:
      0  done; calls that are pending, not found or given up are normal
      1  some look-ups failed, or the run ended early:
         what is left is asked about when it is due
      2  usage or settings
      3  eSMS refuses the account; the message says what to do
      4  the database cannot be reached

    With --watch it runs until SIGTERM or Ctrl-C (exit code 0), also while the database or eSMS cannot be reached, and
    notifies systemd (NOTIFY_SOCKET) that it is ready and working.
    """  # noqa: D301 - click wants the control character
    if (every is not None or health_port) and not as_service:
        raise click.UsageError("--every and --health-port go with --watch.")
    if as_service and (dry_run or retry_given_up or limit):
        raise click.UsageError("--watch does not go with --dry-run, --retry-given-up or --limit.")
    if every is not None and not every:
        raise click.UsageError("--every must be at least 1s.")
    within = CallFilter(campaign=campaign, since=since, until=until, reference_ids=wanted_ids or None)
    with open_context(migrated=not as_service, writes=not dry_run, at_most=_LONGEST_TRANSACTION) as context:
        if as_service:
            _serve(context, older_than, within, every or _EVERY, health_port, as_json=as_json)
            return
        due = due_at(context.database.now(), context.settings, grace=older_than, within=within)
        if dry_run:
            _show_due(context, due, limit, retry_given_up=retry_given_up, as_json=as_json)
            return
        client = client_of(context.settings)
        if retry_given_up:
            reopened = context.writer.reopen(within, context.database.now())
            say(f"due again: {reopened} calls that were given up", err=as_json)
            due = due_at(context.database.now(), context.settings, grace=older_than, within=within)
        reconciler = Reconciler(context.database, client, context.settings)
        with stop_at_signals() as stop, show_progress("asking eSMS", None) as show:
            progress = reconciler.run(due, limit=limit, stop=stop, watch=_shows_progress(show))
        _show_run(context, progress, as_json=as_json)
    sys.exit({"done": DONE, "refused": REFUSED}.get(str(progress.run.outcome or "done"), PROBLEM))


def _serve(
    context: CliContext,
    grace: timedelta | None,
    within: CallFilter,
    every: timedelta,
    health_port: int | None,
    *,
    as_json: bool,
) -> None:
    """Run until SIGTERM or SIGINT, and print what happens. Output that cannot be written (a full disk) is lost."""
    client, watchdog = client_of(context.settings), Watchdog()
    with stop_at_signals() as stop, ExitStack() as stack:
        try:
            stack.enter_context(health_endpoint(health_port, watchdog))
        except OSError as error:
            message = f"cannot listen on 127.0.0.1:{health_port} ({error.strerror}): choose another --health-port."
            raise click.ClickException(message) from None
        watchdog.notify("READY=1")
        watch = Watch(context.database, client, context.settings, watchdog)
        for event in watch.runs(grace=grace, within=within, every=every, stop=stop):
            with suppress(OSError):
                # Where the database goes away after a run, the next round says so.
                with suppress(Unavailable):
                    _show_event(context, event, as_json=as_json)
                sys.stdout.flush()
        watchdog.notify("STOPPING=1")


def _show_event(context: CliContext, event: Progress | DatabaseChange | Idle, *, as_json: bool) -> None:
    if isinstance(event, DatabaseChange):
        _show_database_change(context, event)
    elif isinstance(event, Idle):
        now = local_time(datetime.now(UTC), context.settings.time_zone)
        say(f"{now} reconcile: no call to ask about now; watching", err=as_json)
    else:
        _show_run(context, event, as_json=as_json)


def _show_database_change(context: CliContext, change: DatabaseChange) -> None:
    words = "The database can be used again."
    if change.problem:
        pause = f"{LONGEST_DATABASE_PAUSE.seconds} s"
        words = f"The database cannot be used: {change.problem}\nTrying again at least every {pause}."
    say(redact(words, context.settings.secrets()), err=True)


def _show_due(context: CliContext, due: Due, limit: int | None, *, retry_given_up: bool, as_json: bool) -> None:
    number, first = context.reader.due(due, min(limit or _SHOWN_REFERENCES, _SHOWN_REFERENCES))
    given_up = context.reader.given_up(due.within) if retry_given_up else 0
    number = number + given_up if limit is None else min(number + given_up, limit)
    if as_json:
        empty = dict.fromkeys(("id", "started_at", "finished_at", "outcome", "seen_at", "answered_at"))
        counts = dict.fromkeys(("checked", "settled", "pending", "not_found", "failed", "gave_up"), 0)
        say_json({**empty, **counts, "host": socket.gethostname(), "seconds": 0.0, "due": number})
        return
    say(f"due: {number}; nothing was asked")
    if given_up:
        say(f"  of these given up, and due again: {given_up}")
    _echo_some(first, number)


def _echo_some(reference_ids: list[str], of_all: int, *, err: bool = False) -> None:
    for reference_id in reference_ids:
        say(f"  {reference_id}", err=err)
    if of_all > len(reference_ids):
        say(f"  and {of_all - len(reference_ids)} more", err=err)


def _shows_progress(show: ShowProgress) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        run = progress.run
        counts = f"settled {run.settled}, pending {run.pending + run.not_found}, failed {run.failed}"
        show(run.checked, f"calls, {counts}, {progress.lookups_per_second:.1f} a second", progress.due)

    return watch


def _show_run(context: CliContext, progress: Progress, *, as_json: bool) -> None:
    run = progress.run
    seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0
    seconds_row = ("seconds", f"{seconds:.1f}")
    columns = {name: plain(value) for name, value in asdict(run).items()}
    if as_json:
        say_json(columns | {"seconds": round(seconds, 3)})
    if progress.all_claimed_by_others:
        words = f"Nothing to do: another run has claimed all of the {progress.due} calls that are due."
        say(words, err=as_json)
    elif not as_json:
        _show_figures(context, progress, [*((name.replace("_", " "), columns[name]) for name in _FIGURES), seconds_row])
    _show_trouble(context, progress, as_json=as_json)
    _show_share(context, as_json=as_json)


def _show_trouble(context: CliContext, progress: Progress, *, as_json: bool) -> None:
    """What failed, why calls were not asked about, and what to do."""
    for code, number in sorted(progress.failures.counts.items()):
        words = f"failed with {printable_line(code)}: {number}; calls that stay open are asked about again when due."
        say(f"{words} {lookup_words.what_failed(code, progress.failures)}".rstrip(), err=as_json)
        _echo_some(progress.failures.named(code), number, err=as_json)
    for line in lookup_words.clocks(progress.clocks):
        say(f"! {line}", err=as_json)
    if progress.slowed_down:
        say(lookup_words.slowed_down(progress.slowed_down), err=as_json)
    if progress.refused_code:
        say(lookup_words.refused(progress.refused_code), err=True)
    if progress.ended == "no answer":
        say(lookup_words.no_answer(progress.unanswered, context.settings.esms_api_url, progress.failures), err=True)
    if progress.unasked:
        words = f"not asked about: {progress.unasked}, because {lookup_words.why(progress.ended)}; they stay due"
        say(words, err=as_json)


def _show_figures(context: CliContext, progress: Progress, figures: list[tuple[str, Any]]) -> None:
    """A table on a terminal, else one dated line, for a log."""
    if sys.stdout.isatty():
        print_table("Reconcile", figures)
        if not progress.due:
            say("No call to ask about now.")
        return
    words = ", ".join(f"{name} {value}" for name, value in figures) if progress.due else "no call to ask about now"
    say(f"{local_time(datetime.now(UTC), context.settings.time_zone)} reconcile: {words}")


def _show_share(context: CliContext, *, as_json: bool) -> None:
    """How many calls were settled by lookups in the last day: a high share means that callbacks do not come."""
    share = context.reader.lookup_share(datetime.now(UTC))
    if as_json or sys.stdout.isatty():
        say(f"settled by lookup in the last 24 hours: {status_needs.lookup_share_in_words(share)}", err=as_json)
    if warning := status_needs.lookup_share_warning(share, context.settings.lookup_share_warn):
        say(f"! {warning}", err=as_json)
