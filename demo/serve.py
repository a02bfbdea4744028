"""Serves the demo: a receiver with a fortnight of calls, and a sandbox in the place of eSMS, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import requests

from demo.fortnight import fortnight
from demo.load import Loader
from webapp.cli.output import say
from webapp.cli.signals import stop_at_signals
from webapp.esms.sandbox.service import Sandbox
from webapp.storage.database import Database
from webapp.support import files
from webapp.support.progress import progress
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event

    from webapp.esms.sandbox.calls import PlacedCall

FOLDER = Path(__file__).parents[1] / ".demo"
COMMAND = Path(sys.executable).with_name("esms-calls")
PAGE_TOKEN, API_TOKEN, CALLBACK_TOKEN = "look-at-the-demo", "api-token-of-the-demo", "callbacks-of-the-demo"
"""No secrets: the demo listens on this machine alone."""
TRIAL = "Gọi thử"
"""The campaign of the calls that are placed at the start, whose callbacks are sent over HTTP."""
_TRIAL_CALLS = 8
_MARK = "made-by-make-demo"
_HIGHEST_PORT = 65535
_START_SECONDS, _STOP_SECONDS = 30, 5
_POLL_SECONDS = 0.2


@click.command()
@click.option("--port", default=8100, show_default=True, type=click.IntRange(1, _HIGHEST_PORT), help="Of the receiver.")
@click.option("--sandbox-port", default=8101, show_default=True, type=click.IntRange(0, _HIGHEST_PORT), help="Of eSMS.")
@click.option("--folder", default=FOLDER, type=click.Path(path_type=Path), help="Where its data is.  [default: .demo]")
@click.option(
    "--share", default=1.0, type=click.FloatRange(0, 1, min_open=True), help="Part of the calls, to be quick."
)
@click.option("--browser/--no-browser", default=True, help="Open the page, where a terminal and a browser are.")
def main(*, port: int, sandbox_port: int, folder: Path, share: float, browser: bool) -> None:
    """Serve a fortnight of calls to look at, until Ctrl-C. Each start makes it anew, in a folder of its own."""
    folder = folder.resolve()
    url = f"http://127.0.0.1:{port}"
    _check_port(port)
    with stop_at_signals() as stop, _fresh(folder), _sandbox(sandbox_port) as esms:
        settings = _settings(folder, esms)
        _load(settings, esms, share, stop)
        if not stop.is_set():
            with _serving(folder, port) as server:
                _wait_until_healthy(url, server, folder, stop)
                if not stop.is_set():
                    _place_trial_calls(url, esms)
                    _invite(url, folder, browser=browser)
                while not stop.wait(_POLL_SECONDS):
                    if server.poll() is not None:
                        raise click.ClickException(f"The receiver has ended: see {folder / 'server.log'}.")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            words = f"Cannot listen on port {port} ({error.strerror}): choose another by DEMO='--port 9000'."
            raise click.ClickException(words) from None


@contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    """An empty folder of the demo's own, locked for as long as the demo runs."""
    mark = folder / _MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise click.ClickException(f"{folder} holds something that is not the demo's: choose another by --folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with mark.open("a+b") as file:
        if not files.lock(file, timeout=0):
            raise click.ClickException(f"Another demo uses {folder}: stop it, or choose another by --folder.")
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != mark:
                path.unlink()
        yield


@contextmanager
def _sandbox(port: int) -> Iterator[Sandbox]:
    try:
        esms = Sandbox(port=port)
    except OSError as error:
        words = f"Cannot listen on port {port} ({error.strerror}): choose another by DEMO='--sandbox-port 0'."
        raise click.ClickException(words) from None
    with esms:
        yield esms


def _settings(folder: Path, esms: Sandbox) -> Settings:
    """The demo's own settings, in a `.env` that commands in its folder read, too; none of the user's."""
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    own = {
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "API_TOKEN": API_TOKEN,
        "PAGE_TOKEN": PAGE_TOKEN,
        "ESMS_API_KEY": "any",
        "ESMS_SECRET_KEY": "any",
        "ESMS_API_URL": esms.api_url,
        "ESMS_MESSAGE_API_URL": esms.message_api_url,
    }
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in own.items()))
    os.chdir(folder)
    return load_settings()


def _load(settings: Settings, esms: Sandbox, share: float, stop: Event) -> None:
    database = Database(settings.database, patience=timedelta(seconds=10))
    now = datetime.now(UTC)
    made = fortnight(now, settings.time_zone, share=share)
    say(f"A fortnight of {len(made.calls):,} calls, made anew.")
    try:
        database.migrate()
        with progress("Callbacks", len(made.callbacks)) as show:
            Loader(database, esms, settings).load(made, now, show, stop)
    finally:
        database.close()


@contextmanager
def _serving(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(COMMAND), "serve", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    with (folder / "server.log").open("wb") as log:
        # In a session of its own: Ctrl-C ends the demo, and the demo ends it.
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], folder: Path, stop: Event) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not stop.wait(_POLL_SECONDS):
        with suppress(requests.RequestException):
            if requests.get(f"{url}/readyz", timeout=5).ok:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"The receiver does not start: see {folder / 'server.log'}.")


def _place_trial_calls(url: str, esms: Sandbox) -> None:
    """Place a few calls now: the sandbox sends their callbacks to the receiver, and they are registered by its API."""
    placed = esms.place(_TRIAL_CALLS, callback_url=f"{url}/esms/callback/{CALLBACK_TOKEN}")
    answer = requests.post(
        f"{url}/api/calls",
        json=[_registration(call) for call in placed],
        headers={"Authorization": f"Bearer {API_TOKEN}"},
        timeout=10,
    )
    answer.raise_for_status()
    esms.wait(10)


def _registration(call: PlacedCall) -> dict[str, str]:
    said = {"reference_id": call.smsid, "phone": call.phone, "campaign": TRIAL}
    return said | {"placed_at": call.placed_at.isoformat()}


def _invite(url: str, folder: Path, *, browser: bool) -> None:
    say(f"\n  {url}/\n  Sign in with the token {PAGE_TOKEN}\n")
    say(f"The same figures in the terminal:\n  cd {folder}\n  {COMMAND} report --by campaign\n")
    say("docs/demo.md says which question is answered where. Ctrl-C ends the demo.")
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if browser and sys.stdout.isatty() and has_screen:
        with suppress(webbrowser.Error):
            webbrowser.open(f"{url}/")
