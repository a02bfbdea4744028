"""The command reconcile: reads its options, runs, and shows what came of it."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from webapp.cli import lookup_words, status_text
from webapp.cli import watch as watching
from webapp.cli.context import CliContext, client_of, open_context
from webapp.cli.exit_codes import DONE, PROBLEM, REFUSED
from webapp.cli.options import Duration, Time
from webapp.cli.output import printable
from webapp.cli.signals import stop_at_signals
from webapp.cli.tables import print_table
from webapp.esms import parameters
from webapp.reconcile.run import Clock, Progress, Reconciler, due_at
from webapp.storage.filters import CallFilter
from webapp.storage.types import plain
from webapp.support.progress import progress as show_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.claims import Due
    from webapp.support.progress import ShowProgress

_SHOWN_REFERENCES = 20
_LONGEST_TRANSACTION = timedelta(minutes=2)


def _reference_ids(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    try:
        return tuple(parameters.normalise_identity(one) for one in given) or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--older-than",
    type=Duration(),
    help="Ask about missing calls that were placed at least so long ago, such as 0s, 10m or 2h.  "
    "[default: RECONCILE_GRACE]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask about so many calls at most.")
@click.option("--campaign", metavar="NAME", help="Only calls of this campaign.")
@click.option("--since", type=Time(), help="Only calls placed at this time or later, such as 2026-11-23.")
@click.option("--until", type=Time(), help="Only calls placed before this time.")
@click.option(
    "--reference-id",
    "reference_ids",
    multiple=True,
    callback=_reference_ids,
    metavar="ID",
    help="Only this call, if it is due; repeatable, without case.",
)
@click.option("--retry-given-up", is_flag=True, help="First take up again the calls that were given up: due at once.")
@click.option("--dry-run", is_flag=True, help="Only say how many calls are due, and which; ask and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object; failures on stderr.")
@click.option("--watch", is_flag=True, help="Go on for ever: a service, for those who have no timer.")
@click.option("--every", type=Duration(), help="With --watch: the pause between two runs.  [default: 60s]")
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="With --watch: answer 200 at http://127.0.0.1:PORT/healthz while it is alive.",
)
def reconcile(
    *,
    older_than: timedelta | None,
    limit: int | None,
    campaign: str | None,
    since: datetime | None,
    until: datetime | None,
    reference_ids: tuple[str, ...] | None,
    retry_given_up: bool,
    dry_run: bool,
    as_json: bool,
    watch: bool,
    every: timedelta | None,
    health_port: int | None,
) -> None:
    """Ask eSMS (GetSendStatus) about every call whose result never came, and about calls in conflict.

    Calls never asked about come first, then the longest due. Safe to run twice, on one machine or ten: all runs on
    one database share the work and the pace (RECONCILE_RATE). When eSMS says that we ask too fast, the pace is
    halved, and recovers within minutes; when eSMS is down, the run ends and leaves its calls due as they were.
    Ctrl-C and SIGTERM let it finish what is in flight. Needs ESMS_API_KEY and ESMS_SECRET_KEY.

    \b
    Exit codes:
      0  done; calls that are pending, not found or given up are normal
      1  some look-ups failed, or the run was cut short:
         what is left is asked again when its time comes
      2  usage or settings
      3  eSMS refuses the account; the message says what to do
      4  the database cannot be reached

    With --watch it goes on until SIGTERM or Ctrl-C (exit code 0), also while the database or eSMS are away, and tells
    systemd (NOTIFY_SOCKET) that it is ready and alive.
    """  # noqa: D301 - click wants the control character
    if (every is not None or health_port) and not watch:
        raise click.UsageError("--every and --health-port go with --watch.")
    if watch and (dry_run or retry_given_up or limit):
        raise click.UsageError("--watch does not go with --dry-run, --retry-given-up or --limit.")
    if every is not None and not every:
        raise click.UsageError("--every must be at least 1s.")
    within = CallFilter(campaign=campaign, since=since, until=until, reference_ids=reference_ids)
    with open_context(migrated=not watch, writes=not dry_run, at_most=_LONGEST_TRANSACTION) as context:
        clock = Clock(context.database.now)

        def due() -> Due:
            return due_at(clock.now(), context.settings, grace=older_than, within=within)

        if dry_run:
            _show_due(context, due(), limit, retry_given_up=retry_given_up, as_json=as_json)
            return
        client_of(context.settings)
        if watch:

            def show(progress: Progress) -> None:
                _show_run(context, progress, as_json=as_json)

            watching.watch(context, clock, due, every, health_port, show)
            return
        if retry_given_up:
            revived = context.writer.reopen(within, clock.now())
            click.echo(f"taken up again: {revived} calls that were given up", err=as_json)
        progress = _run(context, clock, due(), limit)
        _show_run(context, progress, as_json=as_json)
    sys.exit({"done": DONE, "refused": REFUSED}.get(str(progress.run.outcome or "done"), PROBLEM))


def _show_due(context: CliContext, due: Due, limit: int | None, *, retry_given_up: bool, as_json: bool) -> None:
    number, first = context.reader.due(due, min(limit or _SHOWN_REFERENCES, _SHOWN_REFERENCES))
    given_up = context.reader.given_up(due.within) if retry_given_up else 0
    number = number + given_up if limit is None else min(number + given_up, limit)
    if as_json:
        empty = dict.fromkeys(("id", "started_at", "finished_at", "outcome", "seen_at"))
        counts = dict.fromkeys(("checked", "settled", "pending", "not_found", "failed", "gave_up"), 0)
        click.echo(json.dumps({**empty, **counts, "host": socket.gethostname(), "seconds": 0.0, "due": number}))
        return
    click.echo(f"due: {number}; nothing was asked")
    if given_up:
        click.echo(f"  of these given up, to be taken up again: {given_up}")
    _echo_some(first, number)


def _echo_some(reference_ids: list[str], of_all: int, *, err: bool = False) -> None:
    for reference_id in reference_ids:
        click.echo(f"  {reference_id}", err=err)
    if of_all > len(reference_ids):
        click.echo(f"  and {of_all - len(reference_ids)} more", err=err)


def _run(context: CliContext, clock: Clock, due: Due, limit: int | None) -> Progress:
    reconciler = Reconciler(context.writer, context.reader, client_of(context.settings), context.settings, clock)
    with stop_at_signals() as stop, show_progress("asking eSMS", None) as tell:
        return reconciler.run(due, limit=limit, stop=stop, watch=_teller(tell))


def _teller(tell: ShowProgress) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        run = progress.run
        asked = f"settled {run.settled}, pending {run.pending + run.not_found}, failed {run.failed}"
        tell(run.checked, f"calls, {asked}, {progress.pace:.1f} a second", progress.due)

    return watch


def _show_run(context: CliContext, progress: Progress, *, as_json: bool) -> None:
    run = progress.run
    seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0
    columns = {name: plain(value) for name, value in asdict(run).items()}
    if as_json:
        click.echo(json.dumps(columns | {"seconds": round(seconds, 3)}))
    if progress.other_at_work:
        words = f"Another run is at work on all of the {progress.due} due calls: nothing to do here."
        click.echo(words, err=as_json)
    elif not as_json:
        names = ("outcome", "checked", "settled", "pending", "not_found", "failed", "gave_up")
        print_table(
            "Reconcile", [(name.replace("_", " "), columns[name]) for name in names] + [("seconds", f"{seconds:.1f}")]
        )
        if not progress.due:
            click.echo("Nothing was due: eSMS is to be asked about no such call now.")
    for code, number in sorted(progress.failures.items()):
        often = f"failed with {printable(code)}: {number}; what is still open is asked again when due."
        click.echo(f"{often} {lookup_words.what_failed(code)}", err=as_json)
        _echo_some([reference for reference, failed in progress.failed_calls if failed == code], number, err=as_json)
    if progress.slowed:
        click.echo(lookup_words.slowed(progress.slowed), err=as_json)
    if progress.refused_code:
        click.echo(lookup_words.refused(progress.refused_code), err=True)
    if progress.ended == "down":
        click.echo(f"{lookup_words.down(progress.unheard)} No attempt is charged to a call.", err=True)
    if progress.unasked:
        reason = lookup_words.why(progress.ended)
        click.echo(
            f"not asked about: {progress.unasked}, because {reason}; due as before: the next run asks about them",
            err=as_json,
        )
    _show_share(context, as_json=as_json)


def _show_share(context: CliContext, *, as_json: bool) -> None:
    """Tell how many calls had to be asked about of late: look-ups hide that callbacks no longer come."""
    share = context.reader.lookup_share(datetime.now(UTC))
    click.echo(f"settled by lookup in the last 24 hours: {status_text.lookup_share_in_words(share)}", err=as_json)
    if warning := status_text.lookup_share_warning(share, context.settings.lookup_share_warn):
        click.echo(f"! {warning}", err=as_json)
