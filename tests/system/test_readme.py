"""The README's commands, run as they stand there, in a fresh copy of the project: on SQLite and on PostgreSQL."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import wait_until_healthy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
OURS = re.compile("VENV|PYTEST|DATABASE_URL|INSTANCE_DIR|CALLBACK_|API_|ESMS_|RECONCILE_|MAKE|MFLAGS")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has, or would have, of the project."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def _ports() -> Iterator[None]:
    """The ports that the README names are for one tour at a time, whichever process runs it."""
    with Path(tempfile.gettempdir(), "esms-calls-tour.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def blocks(begin: str, end: str) -> list[str]:
    """The shell commands between two headings of the README."""
    text = (ROOT / "README.md").read_text()
    part = text[text.index(f"## {begin}") : text.index(f"## {end}")]
    return re.findall(r"```sh\n(.*?)```", part, re.DOTALL)


@contextmanager
def background(
    clone: Path, command: str, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A terminal in which the command runs until the end of the block, and the file with what it shows."""
    shown = clone / f"terminal-{time.monotonic_ns()}.log"
    with shown.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-ec", f"{command.rstrip()} & trap 'kill $!; wait $!' TERM; wait $!"],  # noqa: S607
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process, shown
    finally:
        process.terminate()
        process.wait(timeout=60)


def terminal(clone: Path, commands: str, environment: dict[str, str]) -> str:
    """What the commands print; they must succeed."""
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", commands],  # noqa: S607
        cwd=clone,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.usefixtures("_ports")
def test_the_tour_works_as_written(clone: Path, empty_database_url: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    serve, *_ = blocks("Two commands", "A tour")
    activate, callback, show, sandbox, register, fetch, audit, export = blocks("A tour", "In production")
    if not empty_database_url.startswith("sqlite"):
        environment["DATABASE_URL"] = empty_database_url
        terminal(clone, "make install && .venv/bin/esms-calls migrate", environment)
    with background(clone, f"exec {serve}", environment) as (server, shown):
        wait_until_healthy("http://127.0.0.1:8000", server, seconds=180)
        assert "/esms/callback/" in shown.read_text()
        assert terminal(clone, callback, environment) == '{"result": "settled"}'
        assert terminal(clone, callback, environment) == '{"result": "duplicate"}'
        assert '"price":"0.0000"' in terminal(clone, show, environment)
        with background(clone, sandbox, environment) as (_, progress):
            _wait_for("Answering look-ups", progress)
            first = terminal(clone, activate + register, environment)
            assert "registered 200, already known 0, bad lines 0" in first
            assert re.search(r"missing +\d*[1-9]\d*\b", first)
            second = terminal(clone, activate + fetch, environment)
            assert re.search(r"outcome +done", second)
            assert re.search(r"missing +0\b", second)
            esms = "".join(line for line in fetch.splitlines(keepends=True) if line.startswith("export "))
            third = terminal(clone, activate + esms + audit, environment)
            assert "Asked about 50 of 200 settled calls" in third
            assert "at most 5.82 % of the 200 calls disagree" in third
            assert '"reference_id": ' in terminal(clone, activate + export, environment)
    assert len((clone / "calls.csv").read_text().splitlines()) == 202
    shutil.rmtree(clone / "instance")


def _wait_for(words: str, file: Path) -> None:
    for _ in range(600):
        if words in file.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(file.read_text())
