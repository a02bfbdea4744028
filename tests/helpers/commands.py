"""Runs commands in this process, and makes what they work on."""

from __future__ import annotations

import os
import pty
import re
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from click.testing import CliRunner, Result
from makers import NOW, at
from running import Program, free_port
from running import run as run_process

from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.calls.rule import Registration
from webapp.cli.commands import cli
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.storage.rejected import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings


ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)


SET = pytest.mark.usefixtures("settings")


Shown: TypeAlias = Literal["output", "errors", "both"]


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    """A command in this process; whatever it does, its user sees no traceback."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def done(*arguments: object, stdin: str | bytes = "") -> str:
    """What a command prints that succeeds."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def rejected(query: bytes, *, seconds: float = 0) -> Rejected:
    """A request that was kept."""
    return Rejected(
        id=parameters.new_id(),
        received_at=at(seconds),
        remote_addr="203.0.113.7",
        method="GET",
        content_type=None,
        payload=esms_callback.storable_request(query, b""),
        reason="ReferenceId: is missing",
    )


def many_calls(writer: Writer, number: int) -> None:
    writer.register(
        [Registration(reference_id=f"call-{place:05}", placed_at=at(place)) for place in range(number)], NOW
    )


@contextmanager
def a_terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """A terminal's file descriptor, and a function that ends it and gives all that was shown on it."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):
            while part := os.read(ours, 65536):
                shown.append(part)

    # At once: a terminal that nobody reads keeps its programs waiting.
    reading = threading.Thread(target=read, daemon=True)
    reading.start()

    def end() -> str:
        os.close(theirs)
        reading.join()
        return b"".join(shown).decode()

    yield theirs, end
    os.close(ours)


def run_on_a_terminal(*arguments: str, shown: Shown = "both", **environment: str) -> tuple[CompletedProcess[str], str]:
    """The end of a command in a process of its own that writes to a terminal, and what is shown there."""
    with a_terminal() as (screen, end):
        path = Path(os.ttyname(screen))
        stdout, stderr = (None if shown == other else path for other in ("errors", "output"))
        ended = run_process(Program(*arguments, environment=environment, stdout=stdout, stderr=stderr))
        return ended, end()


def spooled(settings: Settings, *reader: str, ago: timedelta = timedelta(0)) -> list[CallbackRequest]:
    """Callbacks that wait, as a server that is stopped by now left them."""
    now = datetime.now(UTC) - ago
    waiting = [
        CallbackRequest(parameters.new_id(), now, "203.0.113.7", "POST", "text/plain", query.encode(), b"\xff")
        for query in reader
    ]
    spool = Spool(settings.instance_dir, settings.spool_limit)
    spool.append(waiting)
    spool.close()
    return waiting


@contextmanager
def database_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as another:
        another.setenv("DATABASE_URL", f"postgresql://user:the-password@127.0.0.1:{free_port()}/calls")
        assert settings.instance_dir
        yield
