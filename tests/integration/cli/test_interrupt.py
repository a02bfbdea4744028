"""Ctrl-C shows no traceback and ends with 130, whatever a command is doing: importing, working, or ending.

Commands that finish what is in flight (reconcile, audit, sandbox) have exit codes of their own once they have begun.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from constants import SOAK, sized
from running import COMMAND, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
INTERRUPTED = {130, -signal.SIGINT}
"""Both are 130 in a shell. The second is Python's own, in the last moments of a process."""
COMMANDS = [["--help"], ["migrate"], ["export"], ["spool", "list"]]
IMPORTS = ["click", "webapp.cli.context", "sqlalchemy", "rich.progress"]
IMPORTS_OF_A_SERVER = ["gevent", "gunicorn.app.wsgiapp"]
if SOAK:
    COMMANDS += [["status"], ["register"]]
    IMPORTS += ["flask.cli", "pydantic_settings", "webapp.storage"]
    IMPORTS_OF_A_SERVER += ["gunicorn", "prometheus_client"]

# Python runs this at its start. Its audit events are all imports, opened files, connections and the like.
SITECUSTOMIZE = """
import atexit, os, signal, sys
at, begun, number = os.environ["INTERRUPT_AT"], False, 0
def hook(event, arguments):
    global begun, number
    begun = begun or event == "import" and arguments[0] == "webapp.cli.commands"
    number += begun
    if str(number) == at and begun or event == "import" and arguments[0] == at:
        with open(os.environ["INTERRUPTED"], "a") as file:
            file.write(at)
        os.kill(os.getpid(), signal.SIGINT)
def count():
    with open(os.environ["INTERRUPTED"], "w") as file:
        file.write(str(number))
if at == "count":
    atexit.register(count)
sys.addaudithook(hook)
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Processes that are started can be interrupted, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(at: int | str, tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """A command that is interrupted at that import, or at its event of that number; what it noted down."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
    note = tmp_path / f"note-{at}"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "INTERRUPT_AT": str(at), "INTERRUPTED": str(note)}
    result = subprocess.run(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    return result, note.read_text() if note.exists() else ""


@pytest.mark.parametrize("module", IMPORTS)
@ON_SQLITE
def test_an_import_that_is_interrupted_ends_in_silence(module: str, settings: Settings, tmp_path: Path) -> None:
    assert settings.is_embedded
    result, note = run(module, tmp_path, "export")

    assert (result.returncode, result.stdout, note) == (130, "", module)
    assert result.stderr in {"", "\nInterrupted.\n"}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@ON_SQLITE
def test_a_command_shows_no_traceback_wherever_it_is_interrupted(
    arguments: list[str], settings: Settings, tmp_path: Path
) -> None:
    assert settings.is_embedded
    whole, events = run("count", tmp_path, *arguments)
    assert whole.returncode == 0
    for sample in range(sized(1)):
        # Each command at another place, so that early and late ones are among them.
        place = (COMMANDS.index(arguments) + sample) % len(COMMANDS) + 0.5
        at = max(1, int(int(events) * place / len(COMMANDS)))
        result, note = run(at, tmp_path, *arguments)

        assert note == str(at)
        assert result.returncode in INTERRUPTED
        assert result.stderr.endswith("\nInterrupted.\n") or result.stderr in {"", whole.stderr}
        assert whole.stdout.startswith(result.stdout)


@pytest.mark.parametrize("module", IMPORTS_OF_A_SERVER)
@ON_SQLITE
def test_a_server_that_is_interrupted_while_it_starts_shows_no_traceback(
    module: str, settings: Settings, tmp_path: Path
) -> None:
    assert settings.is_embedded
    result, note = run(module, tmp_path, "serve", "--bind", f"127.0.0.1:{free_port()}")

    assert (result.returncode in INTERRUPTED, note) == (True, module)
    assert "Traceback" not in result.stderr
