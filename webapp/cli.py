"""The commands of ``esms-calls``: each reads its options, calls one function, and shows what came of it."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TextIO
from urllib.parse import quote

import click
from flask.cli import AppGroup, ScriptInfo
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import DataError, IntegrityError

from webapp import create_app, esms, log, terminal
from webapp import status as standing
from webapp.config import ConfigError, load_settings, parse_duration, parse_time
from webapp.database import Database, NotMigrated, Unavailable
from webapp.intake import Intake, as_json
from webapp.lookup import Client
from webapp.models import calls, plain
from webapp.queries import Queries
from webapp.reconcile import Progress, Reconciler, due_at, lease_of
from webapp.registrations import Lines
from webapp.sandbox import sandbox_command
from webapp.spool import Spool, SpoolError, fleeting
from webapp.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from webapp.config import Settings

DONE, PROBLEM, USAGE, REFUSED, NO_DATABASE = range(5)
"""The exit codes; 1 is also whatever was not expected."""

_AT_ONCE = 1000
_PAUSE_SECONDS = 0.2
_SHOWN_REFERENCES = 20
_PATIENCE = timedelta(seconds=30)
_START_PATIENCE = timedelta(seconds=5)


class _Cli(AppGroup):
    """Turns what goes wrong into a line that says what to do, and the exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except ConfigError as error:
            _fail(f"{error}\nSee the settings in README.md, or in the environment and .env.", USAGE)
        except Unavailable as error:
            _fail(f"The database cannot be used: {error}\nCheck DATABASE_URL and that the database runs.", NO_DATABASE)
        except NotMigrated as error:
            _fail(str(error), PROBLEM)
        except SpoolError as error:
            _fail(f"The spool cannot be used: {error}\nCheck INSTANCE_DIR, its disk and SPOOL_LIMIT.", PROBLEM)
        except OSError as error:
            _fail(f"{error.strerror or error.__class__.__name__}: {error.filename or 'input or output'}", PROBLEM)
        except Exception as error:  # noqa: BLE001 - no traceback reaches a user
            _fail(f"Unexpected {error.__class__.__name__}: {error}\nThis is a bug: please report it.", PROBLEM)


def _fail(message: str, code: int) -> NoReturn:
    try:
        secrets = load_settings().secrets()
    except Exception:  # noqa: BLE001 - most likely this is what has failed before
        secrets = ()
    click.echo(f"Error: {log.redact(message, secrets)}", err=True)
    sys.exit(code)


# click's ParamType is generic only of late.
class _Duration(click.ParamType):  # type: ignore[type-arg]
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Time(click.ParamType):  # type: ignore[type-arg]
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value, load_settings().time_zone)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Room:
    """What commands work with: the settings, and the database through its three doors."""

    def __init__(self, patience: timedelta) -> None:
        self.settings = load_settings()
        log.configure(self.settings.secrets(), level=30)
        self.database = Database(self.settings.database, patience=patience)
        self.store = Store(self.database)
        self.queries = Queries(self.database)


@contextmanager
def _room(*, migrated: bool = True, writes: bool = True, patience: timedelta = _PATIENCE) -> Iterator[_Room]:
    """The database, found to be migrated if it must be, and to take writes if these are wanted."""
    room = _Room(patience)
    try:
        if migrated:
            room.database.check(writes=writes)
        yield room
    finally:
        room.database.close()


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="esms-calls", prog_name="esms-calls")
def cli() -> None:
    """Receive eSMS voice callbacks, keep every call's status in SQL, and fetch the results that never came.

    \b
    First steps:
      esms-calls serve          serve, and print the CallbackUrl to give to eSMS
      esms-calls register FILE  say which calls were placed, so that a missing result is noticed
      esms-calls reconcile      ask eSMS about the calls whose callback never came
      esms-calls status         see how things stand

    Settings come from environment variables and a .env file in the working folder; README.md lists them.
    Exit codes: 0 done, 1 something needs attention, 2 usage or settings, 3 eSMS refuses the account,
    4 the database cannot be reached.
    """  # noqa: D301 - click wants the control character


def main() -> None:
    """Run the command line."""
    cli.main(prog_name="esms-calls", obj=ScriptInfo(create_app=create_app))


cli.add_command(sandbox_command)


@cli.command(with_appcontext=False)
@click.option("--bind", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
def serve(bind: str, workers: int) -> None:
    """Serve callbacks and the API with gunicorn, until SIGTERM or Ctrl-C.

    The embedded SQLite database is made and migrated by itself. Another database must be migrated already
    (esms-calls migrate). While the database cannot take callbacks, they wait in the spool.
    """
    with _room(migrated=False, patience=_START_PATIENCE) as room:
        _check_address(bind)
        try:
            if room.settings.is_embedded:
                room.database.migrate()
            room.database.check()
        except Unavailable as error:
            # An embedded one that can be read is locked, or its disk full; any other will not be there later, either.
            if room.settings.is_embedded and not _can_be_read(room.database):
                raise
            _warn_of_absence(error, room.settings)
    _warn_of_the_spool(room.settings)
    room.settings.api_tokens()
    click.echo(f"CallbackUrl to give to eSMS:\n  {room.settings.callback_url(bind)}")
    if room.settings.public_url is None:
        _hint("eSMS must reach it from outside: set PUBLIC_URL to the address that it has there.")
    sys.stdout.flush()
    from webapp.serving import serve as become_gunicorn  # noqa: PLC0415 - it reads the settings once more

    become_gunicorn(bind, workers)


def _hint(words: str) -> None:
    """Words for a person; where they cannot be written (a full disk), that keeps nobody from serving."""
    with suppress(OSError):
        click.echo(words, err=True)


def _can_be_read(database: Database) -> bool:
    try:
        database.check(writes=False)
    except (Unavailable, NotMigrated):
        return False
    return True


def _warn_of_absence(error: Unavailable, settings: Settings) -> None:
    meanwhile = "kept in the spool, and stored once it is back" if settings.spool else "answered 503 until it is back"
    _hint(
        f"Warning: the database cannot be used now: {error}\nServing all the same: callbacks are {meanwhile}; "
        "/readyz tells whether it is, and at the right migration."
    )


def _warn_of_the_spool(settings: Settings) -> None:
    if not settings.spool:
        _hint(
            "The spool is off (SPOOL=off): while the database cannot take callbacks, they are answered 503. "
            "eSMS sends each five times more, and then never again."
        )
    elif kind := fleeting(settings.instance_dir.resolve()):
        _hint(
            f"Warning: INSTANCE_DIR ({settings.instance_dir.resolve()}) lies on {kind}, which may not last: "
            "set it to a folder on a lasting disk or volume, or set SPOOL=off."
        )


def _check_address(bind: str) -> None:
    host, colon, port = bind.rpartition(":")
    if not (colon and bind.isascii() and port.isdigit() and int(port) <= 65535):  # noqa: PLR2004
        raise click.BadParameter(f"{bind!r} is not HOST:PORT, such as 0.0.0.0:8000.", param_hint="--bind")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise click.ClickException(f"cannot listen on {bind} ({error.strerror}): choose another --bind.") from None


@cli.command(with_appcontext=False)
def migrate() -> None:
    """Bring the database to the newest migration. Safe to run again, and by several machines at once."""
    with _room(migrated=False) as room:
        before, after = room.database.migrate()
    words = "was there already" if before == after else f"was {before or 'empty'}"
    click.echo(f"{room.database.name} is at migration {after} ({words}).")


@cli.command("callback-url", with_appcontext=False)
@click.option("--encoded", is_flag=True, help="URL-encoded, as the request that places a call wants it.")
def callback_url(*, encoded: bool) -> None:
    """Print the CallbackUrl to give to eSMS, with the documented empty parameters."""
    url = load_settings().callback_url()
    click.echo(quote(url, safe="") if encoded else url)


@cli.command(with_appcontext=False)
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

    with _room() as room, terminal.progress("registering", None) as tell:
        lines = Lines(file.readline, room.settings.time_zone, on_bad)
        registrations = iter(lines)
        try:
            while portion := list(islice(registrations, _AT_ONCE)):
                new, old = room.store.register(portion, datetime.now(UTC))
                registered, known = registered + new, known + old
                tell(registered + known, f"calls, {bad} bad lines")
        finally:
            sys.stdout.write(f"registered {registered}, already known {known}, bad lines {bad}\n")
    if lines.header_ignored:
        click.echo(f"ignored columns: {', '.join(lines.header_ignored)}", err=True)
    if lines.commas_at:
        click.echo(
            f"line {lines.commas_at} holds a comma and was taken as a ReferenceId: "
            "if this is a CSV, its first line must name the columns.",
            err=True,
        )
    sys.exit(PROBLEM if bad else DONE)


@cli.command(with_appcontext=False)
@click.option(
    "--older-than",
    type=_Duration(),
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
    with _room(writes=not dry_run) as room:
        grace = room.settings.reconcile_grace if older_than is None else older_than
        if dry_run:
            _show_due(room, grace, limit, as_json=as_json)
            return
        progress = _run(room, grace, limit)
        _show_run(progress, as_json=as_json)
    sys.exit({"done": DONE, "refused": REFUSED}.get(str(progress.run.outcome or "done"), PROBLEM))


def _show_due(room: _Room, grace: timedelta, limit: int | None, *, as_json: bool) -> None:
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


def _run(room: _Room, grace: timedelta, limit: int | None) -> Progress:
    settings = room.settings
    missing = [name.upper() for name in ("esms_api_key", "esms_secret_key") if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"Not set: {', '.join(missing)}. To ask eSMS, the keys of your eSMS account are needed.")
    client = Client(
        settings.esms_api_url, settings.esms_api_key or "", settings.esms_secret_key or "", settings.esms_timeout
    )
    total, _ = room.queries.due(due_at(datetime.now(UTC), grace), 0)
    expected = total if limit is None else min(total, limit)
    with _stop_at_signals() as stop, terminal.progress("asking eSMS", expected) as tell:

        def watch(progress: Progress) -> None:
            run = progress.run
            asked = f"settled {run.settled}, pending {run.pending + run.not_found}, failed {run.failed}"
            tell(run.checked, f"calls, {asked}")

        return Reconciler(room.store, room.queries, client, settings).run(
            grace=grace, limit=limit, stop=stop, watch=watch
        )


@contextmanager
def _stop_at_signals() -> Iterator[threading.Event]:
    """What Ctrl-C and SIGTERM set, instead of ending the process."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        _print_table(
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


@cli.command(with_appcontext=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(*, as_json: bool) -> None:
    """Show how things stand. Exit code 1 when something needs a person; then it says what to do.

    What waits in the spool is shown also while the database cannot be reached (exit code 4).
    """
    settings, now = load_settings(), datetime.now(UTC)
    spool = _spool(settings).depth()
    try:
        with _room(writes=False) as room:
            found = room.queries.status(due_at(now, settings.reconcile_grace))
    except Unavailable:
        _show_standing(
            {"spool": standing.spool_as_json(spool, now)},
            standing.spool_as_rows(spool, now),
            list(standing.spool_needs(spool, now)),
            as_json=as_json,
            title="Spool",
        )
        raise
    known = found, spool, now, lease_of(settings)
    needs = list(standing.needs(*known))
    _show_standing(standing.as_json(*known), standing.as_rows(*known), needs, as_json=as_json)
    sys.exit(PROBLEM if needs else DONE)


def _show_standing(
    values: dict[str, Any], rows: list[tuple[str, Any]], needs: list[str], *, as_json: bool, title: str = "Calls"
) -> None:
    if as_json:
        click.echo(json.dumps(values | {"needs": needs}))
        return
    _print_table(title, rows)
    for need in needs:
        click.echo(f"! {need}")


@cli.command(with_appcontext=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="CSV with a header, or JSON Lines: one object a line.",
)
@click.option("--since", type=_Time(), help="Only calls placed at this time or later, such as 2026-11-23.")
@click.option("--until", type=_Time(), help="Only calls placed before this time.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write to this file, whole or not at all; - is standard output.  [default: -]",
)
def export(form: str, since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Write calls as CSV or JSON Lines, oldest placed first, to standard output or a file.

    Times are UTC, prices have four decimals, and what was not said is empty (CSV) or null (JSON Lines). Times
    that you give are ISO 8601, a date or a time; without a zone they are in TIME_ZONE.
    """
    output = None if output == Path("-") else output
    with _room(writes=False) as room, _target(output) as target:
        total = room.queries.count(since, until)
        write = _csv_writer(target) if form == "csv" else _jsonl_writer(target)
        done = 0
        with _progress_beside(target, total) as tell:
            for done, call in enumerate(room.queries.export(since, until), start=1):
                write(call)
                if done % _AT_ONCE == 0 or done == total:
                    tell(done, "calls")
    if output:
        click.echo(f"{done} calls written to {output}", err=True)


def _progress_beside(target: TextIO, total: int) -> AbstractContextManager[Callable[[int, str], None]]:
    """No bar on a terminal where the calls themselves are seen running by."""
    if target.isatty():
        return nullcontext(lambda _done, _words: None)
    return terminal.progress("exporting", total)


@contextmanager
def _target(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there whole or as it was before; a device or pipe is written as it is."""
    if output is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale says: names of campaigns are Vietnamese
        yield sys.stdout
        sys.stdout.flush()
        return
    path = output.resolve()
    whole = path.is_file() or not path.exists()
    draft = path.with_name(f".{path.name}.{os.getpid()}") if whole else path
    try:
        file = draft.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from None
    try:
        with file:
            yield file
        if whole:
            draft.replace(path)
    except BaseException:
        if whole:
            draft.unlink()
        raise


def _csv_writer(target: TextIO) -> Callable[[dict[str, Any]], None]:
    writer = csv.DictWriter(target, calls.columns.keys(), lineterminator="\n")
    writer.writeheader()
    return lambda call: writer.writerow(call | {"conflict": str(call["conflict"]).lower()})


def _jsonl_writer(target: TextIO) -> Callable[[dict[str, Any]], None]:
    return lambda call: print(json.dumps(call, ensure_ascii=False), file=target)


@cli.command(with_appcontext=False)
@click.option("--check", is_flag=True, help="Change nothing; name the calls that differ, exit code 1 if there are any.")
@click.option(
    "--rejected", is_flag=True, help="Read the rejected callbacks again, and store those that can be read now."
)
@click.option("--since", type=_Time(), help="With --rejected: only those that came at this time or later.")
def replay(*, check: bool, rejected: bool, since: datetime | None) -> None:
    """Fold the whole history again by the rule, and put calls right that differ from it.

    With --rejected: read rejected callbacks again, after an upgrade that can read them. Both are safe to repeat.
    """
    if check and rejected:
        raise click.UsageError("--check and --rejected do not go together.")
    if since and not rejected:
        raise click.UsageError("--since goes with --rejected.")
    with _room(writes=not check) as room:
        if rejected:
            _replay_rejected(room, since)
            return
        differing = _replay_history(room, check_only=check)
    sys.exit(PROBLEM if check and differing else DONE)


def _replay_history(room: _Room, *, check_only: bool) -> int:
    done = differing = 0
    with terminal.progress("replaying", None) as tell:
        for portion in room.queries.reference_ids():
            found = room.store.refold(portion, datetime.now(UTC), check_only=check_only)
            sys.stdout.writelines(f"{reference_id}\n" for reference_id in found)
            done, differing = done + len(portion), differing + len(found)
            tell(done, f"calls, {differing} differ")
    verb = "differ from their history" if check_only else "differed from their history and were put right"
    click.echo(f"{done} calls read, {differing} {verb}", err=True)
    return differing


def _replay_rejected(room: _Room, since: datetime | None) -> None:
    stored = unreadable = 0
    for rejected in room.queries.rejected(since):
        try:
            query, body = esms.stored_request(rejected.payload)
            report = esms.parse_callback(
                query,
                body,
                rejected.content_type,
                report_id=rejected.id,
                received_at=rejected.received_at,
                remote_addr=rejected.remote_addr,
            )
            effect = room.store.replay_rejected(report, datetime.now(UTC))
        except (ValueError, esms.Unreadable, DataError, IntegrityError):
            unreadable += 1
            continue
        stored += 1
        click.echo(f"{report.reference_id} {effect}")
    click.echo(f"{stored} rejected callbacks stored, {unreadable} still cannot be read", err=True)


@cli.group()
def spool() -> None:
    """Look at, take along or store the callbacks that wait because the database could not take them.

    The spool lies in INSTANCE_DIR. The server drains it by itself; these commands work also while it is stopped.
    """


def _spool(settings: Settings) -> Spool:
    return Spool(settings.instance_dir.resolve(), settings.spool_limit)


def _spooled() -> Iterator[dict[str, Any]]:
    """Every arrival in the spool, oldest first, with what it says."""
    waiting, last = _spool(load_settings()), 0
    while found := waiting.oldest(_AT_ONCE, after=last):
        for _, arrival in found:
            yield as_json(arrival)
        last = found[-1][0]


@spool.command("list", with_appcontext=False)
def spool_list() -> None:
    """List what waits, oldest first: when it was received, its id, and the call that it is about."""
    number = 0
    for arrival in _spooled():
        number += 1
        about = arrival["reference_id"] or f"unreadable: {arrival['reason']}"
        sys.stdout.write(f"{arrival['received_at']}  {arrival['id']}  {about}\n")
    click.echo(f"{number} in the spool" if number else "The spool is empty.", err=True)


@spool.command("export", with_appcontext=False)
def spool_export() -> None:
    """Write what waits as JSON Lines to standard output: the request as it came, and what it says."""
    for arrival in _spooled():
        sys.stdout.write(f"{json.dumps(arrival)}\n")


@spool.command("drain", with_appcontext=False)
def spool_drain() -> None:
    """Store what waits in the database; returns once all is stored. A server that is at it already is waited for."""
    with _room() as room:
        waiting = _spool(room.settings)
        intake = Intake(room.database, room.store, waiting, room.settings.answer_within)
        total = waiting.depth().reports
        with terminal.progress("storing", total) as tell:
            while waiting.depth().reports:
                intake.drain(lambda stored: tell(stored, "callbacks"))
                time.sleep(_PAUSE_SECONDS)
        click.echo(f"{total} callbacks stored; the spool is empty." if total else "The spool is empty.")


def _print_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    table = Table(title=title, box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in rows:
        table.add_row(name, str(value))
    Console().print(table)
