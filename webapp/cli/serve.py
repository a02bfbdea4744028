"""The command serve: checks that the server can run, prints the CallbackUrl, and becomes gunicorn."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from webapp.callbacks.spool import SpoolError
from webapp.cli.context import open_context, spool_of
from webapp.cli.output import say
from webapp.cli.status_needs import REPLAY_DUE
from webapp.cli.time_zone import agree_on_zone
from webapp.storage.database import Database
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.storage.phone_key import require_the_same_key
from webapp.support import files
from webapp.support.addresses import split_bind
from webapp.support.file_systems import ephemeral_filesystem
from webapp.support.server_lock import lock_while_serving
from webapp.support.settings import ENV_FILE
from webapp.web.ops import OpsAddress

if TYPE_CHECKING:
    from webapp.callbacks.spool import Spool
    from webapp.support.settings import Settings

_START_PATIENCE = timedelta(seconds=5)
_FIRST_SOCKET = 3
"""The lowest number of a socket that systemd hands over (sd_listen_fds)."""
# Ctrl-C ends it silently until gunicorn handles it. The monkey patch comes before all imports that would miss it.
# webapp is imported before gunicorn adds the working folder to the path, which may hold another webapp.
_GUNICORN = """
import signal
if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
from gevent import monkey
monkey.patch_all()
import webapp.web.gunicorn_config
from gunicorn.app.wsgiapp import run
run()
"""


@click.command()
@click.option("--bind", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
def serve(bind: str, workers: int) -> None:
    """Serve callbacks and the API with gunicorn, until SIGTERM or Ctrl-C.

    The embedded SQLite database is created and migrated automatically. Another database must be migrated first
    (esms-calls migrate). While the database cannot take callbacks, they wait in the spool. SIGTERM ends it within 5
    seconds, or ANSWER_WITHIN if that is longer: it answers what it has received. Started by a systemd socket unit, it
    listens there, and --bind only appears in the CallbackUrl.
    """
    with open_context(migrated=False, patience=_START_PATIENCE, at_most=_START_PATIENCE) as context:
        _check_address(bind, "--bind")
        if ops_bind := context.settings.ops_bind:
            _check_address(ops_bind, "OPS_BIND", beside=bind)
            _check_ops_socket(ops_bind)
        if context.settings.is_embedded:
            _lock_out_restores(context.settings)
        try:
            if context.settings.is_embedded:
                context.database.migrate()
            context.database.check()
            require_the_same_key(context.database, datetime.now(UTC))
            agree_on_zone(context, may_set=context.settings.is_embedded)
            if context.reader.replay_due():
                say(f"Warning: {REPLAY_DUE}", err=True)
        except Unavailable as error:
            # An embedded database that can be read is locked, or its disk is full. One that cannot be read is not
            # expected to become available.
            if context.settings.is_embedded and not _can_be_read(context.database):
                raise
            _warn_that_the_database_is_away(error, context.settings)
    _warn_about_the_replica(context.settings)
    _warn_about_the_spool(context.settings)
    context.settings.make_tokens()
    _warn_about_files(context.settings)
    say(f"CallbackUrl to give to eSMS:\n  {context.settings.callback_url(bind)}")
    if context.settings.public_url is None:
        say("eSMS must reach it from outside: set PUBLIC_URL to the server's public address.", err=True)
    if ops_bind:
        say(f"/metrics and /readyz are answered at http://{ops_bind} alone (OPS_BIND).", err=True)
    sys.stdout.flush()
    _become_gunicorn([bind, *([ops_bind] if ops_bind else [])], workers)


def _lock_out_restores(settings: Settings) -> None:
    with suppress(OSError):  # Where the folder cannot be used, the database will say so.
        if not lock_while_serving(settings.instance_dir.resolve()):
            raise click.ClickException("a restore is under way: start the server when it has ended.")


def _can_be_read(database: Database) -> bool:
    try:
        database.check(writes=False)
    except (Unavailable, NotMigrated):
        return False
    return True


def _warn_that_the_database_is_away(error: Unavailable, settings: Settings) -> None:
    meanwhile = "go to the spool, and are stored once it is back" if settings.spool else "are answered 503 until then"
    say(
        f"Warning: the database cannot be used now: {error}\nThe server starts nevertheless: callbacks {meanwhile}; "
        "/readyz says whether the database is back, and at the right migration.",
        err=True,
    )


def _warn_about_the_replica(settings: Settings) -> None:
    if settings.read_database_url is None:
        return
    replica = Database(settings.read_database_url, patience=_START_PATIENCE, setting="READ_DATABASE_URL")
    try:
        replica.check_replica()
    except (Unavailable, NotMigrated) as error:
        say(
            f"Warning: {error}\nThe server starts nevertheless: callbacks are stored; until the replica can be read, "
            "the page and reads of the API are answered 503.",
            err=True,
        )
    finally:
        replica.close()


def _warn_about_the_spool(settings: Settings) -> None:
    if not settings.spool:
        say(
            "The spool is off (SPOOL=off): while the database cannot take callbacks, they are answered 503. "
            "eSMS sends each five times more, and then never again.",
            err=True,
        )
        _warn_about_spooled_callbacks(spool_of(settings))
    elif kind := ephemeral_filesystem(settings.instance_dir.resolve()):
        say(
            f"Warning: INSTANCE_DIR ({settings.instance_dir.resolve()}) lies on {kind}, which may not last: "
            "set it to a folder on a lasting disk or volume, or set SPOOL=off.",
            err=True,
        )


def _warn_about_spooled_callbacks(spool: Spool) -> None:
    with suppress(SpoolError):
        if number := spool.depth().reports:
            say(
                f"Warning: {number} callbacks wait in the spool from before it was off, and no server stores them: "
                "run `esms-calls spool drain`.",
                err=True,
            )


def _warn_about_files(settings: Settings) -> None:
    folder = settings.instance_dir.resolve()
    for path in (folder, folder / "callback_token", folder / "api_token", Path(ENV_FILE).absolute()):
        if verbs := files.others_may(path):
            mode = "700" if path == folder else "600"
            say(
                f"Warning: other users of this machine may {verbs} {path}, which holds secrets: `chmod {mode} {path}`.",
                err=True,
            )


def _check_address(bind: str, option: str, beside: str | None = None) -> None:
    """Exit with an error if the address is wrong, in use, or in conflict with ``beside``, the other address."""
    try:
        host, port = split_bind(bind)
        other = split_bind(beside) if beside else None
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint=option) from None
    if other and other[1] == port and (other[0] == host or "" in {_named(host), _named(other[0])}):
        raise click.ClickException(f"{option} ({bind}) and --bind ({beside}) take the same port: choose another one.")
    if _has_a_socket():
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            words = f"cannot listen on {bind} ({error.strerror})"
            raise click.ClickException(f"{words}: choose another {option}.") from None


def _check_ops_socket(ops_bind: str) -> None:
    """Stop where systemd hands over sockets, and none at OPS_BIND: gunicorn then listens nowhere else."""
    if not _has_a_socket():
        return
    address = OpsAddress(ops_bind)
    for number in range(_FIRST_SOCKET, _FIRST_SOCKET + int(os.environ["LISTEN_FDS"])):
        with socket.socket(fileno=os.dup(number)) as handed_over:
            if address.is_at(handed_over.getsockname()):
                return
    raise click.ClickException(
        f"the systemd socket unit does not listen at OPS_BIND: add ListenStream={ops_bind} to it."
    )


def _named(host: str) -> str:
    """The host, or an empty text for all addresses of this machine."""
    return "" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not listened on


def _has_a_socket() -> bool:
    """Whether systemd hands over a socket that listens already, which gunicorn then serves on."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0"


def _become_gunicorn(binds: list[str], workers: int) -> NoReturn:
    """Replace this process by gunicorn, so that signals reach it, and it is the first process of a container."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # In memory: a full disk does not stop the counting.
    counts = files.folder_while_alive("esms-calls-metrics-", files.MEMORY)
    configuration = ["-c", "python:webapp.web.gunicorn_config", "--workers", str(workers)]
    listen = [word for bind in binds for word in ("--bind", bind)]
    command = [sys.executable, "-P", "-c", _GUNICORN, *configuration, *listen, "webapp:create_app()"]
    # Blocked until the new program decides about it: Python's start would answer it with a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execve(sys.executable, command, os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(counts)})  # noqa: S606
