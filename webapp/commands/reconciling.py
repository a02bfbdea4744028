"""The command reconcile: reads its options, runs, and shows what came of it."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

from webapp import esms, terminal
from webapp.commands.room import DONE, PROBLEM, REFUSED, Duration, Room, open_room, print_table, stop_at_signals
from webapp.config import ConfigError
from webapp.lookup import Client
from webapp.models import plain
from webapp.reconcile import Progress, Reconciler, due_at

_SHOWN_REFERENCES = 20


@click.command()
@click.option(
    "--older-than",
    type=Duration(),
    help="Ask about missing calls that were placed at least so long ago, such as 0s, 10m or 2h.  "
    "[default: RECONCILE_GRACE]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask about so many calls at most.")
@click.option("--dry-run", is_flag=True, help="Only say how many calls are due, and which; ask and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object; failures on stderr.")
def reconcile(*, older_than: timedelta | None, limit: int | None, dry_run: bool, as_json: bool) -> None:
    """Ask eSMS (GetSendStatus) about every call whose result never came, and about calls in conflict.

    Calls never asked about come first, then the longest due. Safe to run twice: two runs share the work.
    Ctrl-C and SIGTERM let it finish what is in flight. Needs ESMS_API_KEY and ESMS_SECRET_KEY.

    \b
    Exit codes:
      0  done; calls that are pending, not found or given up are normal
      1  some look-ups failed, or the run was cut short:
         what is left is asked again when its time comes
      2  usage or settings
      3  eSMS refuses the account; the message says what to do
      4  the database cannot be reached
    """  # noqa: D301 - click wants the control character
    with open_room(writes=not dry_run) as room:
        grace = room.settings.reconcile_grace if older_than is None else older_than
        if dry_run:
            _show_due(room, grace, limit, as_json=as_json)
            return
        progress = _run(room, grace, limit)
        _show_run(progress, as_json=as_json)
    sys.exit({"done": DONE, "refused": REFUSED}.get(str(progress.run.outcome or "done"), PROBLEM))


def _show_due(room: Room, grace: timedelta, limit: int | None, *, as_json: bool) -> None:
    now = datetime.now(UTC)
    due, first = room.queries.due(due_at(now, grace), min(limit or _SHOWN_REFERENCES, _SHOWN_REFERENCES))
    due = due if limit is None else min(due, limit)
    if as_json:
        empty = dict.fromkeys(("id", "started_at", "finished_at", "outcome", "seen_at"))
        counts = dict.fromkeys(("checked", "settled", "pending", "not_found", "failed", "gave_up"), 0)
        click.echo(json.dumps({**empty, **counts, "host": socket.gethostname(), "seconds": 0.0, "due": due}))
        return
    click.echo(f"due: {due}; nothing was asked")
    _echo_some(first, due)


def _echo_some(reference_ids: list[str], of_all: int, *, err: bool = False) -> None:
    for reference_id in reference_ids:
        click.echo(f"  {reference_id}", err=err)
    if of_all > len(reference_ids):
        click.echo(f"  and {of_all - len(reference_ids)} more", err=err)


def _run(room: Room, grace: timedelta, limit: int | None) -> Progress:
    settings = room.settings
    missing = [name.upper() for name in ("esms_api_key", "esms_secret_key") if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"Not set: {', '.join(missing)}. To ask eSMS, the keys of your eSMS account are needed.")
    client = Client(
        settings.esms_api_url, settings.esms_api_key or "", settings.esms_secret_key or "", settings.esms_timeout
    )
    total, _ = room.queries.due(due_at(datetime.now(UTC), grace), 0)
    expected = total if limit is None else min(total, limit)
    with stop_at_signals() as stop, terminal.progress("asking eSMS", expected) as tell:

        def watch(progress: Progress) -> None:
            run = progress.run
            asked = f"settled {run.settled}, pending {run.pending + run.not_found}, failed {run.failed}"
            tell(run.checked, f"calls, {asked}")

        return Reconciler(room.store, room.queries, client, settings).run(
            grace=grace, limit=limit, stop=stop, watch=watch
        )


def _show_run(progress: Progress, *, as_json: bool) -> None:
    run = progress.run
    seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0
    columns = {name: plain(value) for name, value in asdict(run).items()}
    if as_json:
        click.echo(json.dumps(columns | {"seconds": round(seconds, 3)}))
    elif progress.other_at_work:
        click.echo(f"Another run is at work on all of the {progress.due} due calls: nothing to do here.")
    else:
        names = ("outcome", "checked", "settled", "pending", "not_found", "failed", "gave_up")
        print_table(
            "Reconcile", [(name.replace("_", " "), columns[name]) for name in names] + [("seconds", f"{seconds:.1f}")]
        )
    for code, number in sorted(progress.failures.items()):
        often = f"failed with {_printable(code)}: {number}; what is still open is asked again when due."
        click.echo(f"{often} {_what_failed(code)}", err=as_json)
        _echo_some([reference for reference, failed in progress.failed_calls if failed == code], number, err=as_json)
    if progress.slowed:
        often = f"eSMS said {progress.slowed} times that we ask too fast (code 160)"
        click.echo(f"{often}: lower RECONCILE_RATE.", err=as_json)
    if progress.refused_code:
        remedy = esms.ACCOUNT_REFUSED[progress.refused_code]
        click.echo(f"Error: eSMS refuses the account (code {progress.refused_code}): {remedy}.", err=True)
    if progress.unasked:
        click.echo(f"not asked about: {progress.unasked}; due as before", err=as_json)


def _printable(code: str) -> str:
    """A code as it came from outside, fit for a terminal."""
    return code if code.isascii() and code.isprintable() else ascii(code)


def _what_failed(code: str) -> str:
    """What a person can do about a look-up that failed so."""
    return {
        "timeout": "No whole answer came within ESMS_TIMEOUT.",
        "unreachable": "No connection, or it broke: check the network and ESMS_API_URL.",
        "unreadable": "The answer is none of GetSendStatus: check ESMS_API_URL.",
        "wrong-reference": "eSMS answered about another call.",
    }.get(code, "" if code.startswith("http-") else "eSMS's table of error codes tells what that means.")
