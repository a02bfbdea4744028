"""The README's commands, run as written in a fresh copy of the project, print what it shows; on both databases."""

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
from typing import TYPE_CHECKING, NamedTuple

import pytest
from commands import a_terminal
from running import wait_until_healthy
from until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
OURS = re.compile("VENV|LOCKED|PYTEST|PYTHONDONT|DATABASE_URL|INSTANCE_DIR|CALLBACK_|API_|ESMS_|RECONCILE_|MAKE|MFLAGS")


@pytest.fixture
def clone(tmp_path_factory: pytest.TempPathFactory, _ports: None) -> Path:
    """A copy of the files that git tracks, or would track; the test processes share it, because installing is slow."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "clone"
    if folder.exists():
        return folder
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
    """One tour at a time on this machine: the README names fixed ports."""
    with Path(tempfile.gettempdir(), "esms-calls-tour.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Example(NamedTuple):
    """A block of commands in a document, and the output that the document shows for it."""

    commands: str
    output: str


def examples(document: str) -> list[Example]:
    """The shell commands of a document, each with the output block that follows it, if there is one."""
    found: list[Example] = []
    for language, content in re.findall(
        r"^```(\w+)\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE
    ):
        if language == "sh":
            found.append(Example(content, ""))
        elif language == "text" and found:
            found[-1] = found[-1]._replace(output=content)
    return found


def assert_shown(shown: str, output: str) -> None:
    """The output has the lines that a document shows, one after the other; a line ``…`` stands for any lines.

    Blanks may differ; times and tokens are compared by their form.
    """
    pattern = re.escape("\n".join(_comparable(shown))).replace(re.escape("…\n"), "(?:.*\n)*?")
    printed = "\n".join(_comparable(output))
    assert re.search(pattern.replace("…", ""), printed), f"{shown}\nis not what is printed:\n{output}"


def _comparable(text: str) -> list[str]:
    text = re.sub(r"(?<=/esms/callback/)[\w~.-]+", "TOKEN", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    return ["".join(line.split()) for line in text.splitlines() if line.strip()]


@contextmanager
def background(
    clone: Path, command: str, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A terminal in which the command runs until the block ends, and the file with its output."""
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


def terminal(clone: Path, commands: str, environment: dict[str, str], *, returncode: int = 0) -> str:
    """What the commands print on a terminal; the last one must end with the code, and those before it with 0."""
    with a_terminal() as (screen, shown):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", commands],  # noqa: S607
            cwd=clone,
            env=environment | {"TERM": "dumb"},
            check=False,
            stdout=screen,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
        output = shown()
    assert done.returncode == returncode, f"{commands}\n{output}\n{done.stderr}"
    return output


@pytest.mark.timeout(1200)
def test_tour_works_as_written(clone: Path, empty_database_url: str) -> None:
    shutil.rmtree(clone / "instance", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    # Most of what is installed is never imported here. To pip it is the value of "compile".
    environment["PIP_NO_COMPILE"] = "0"
    serve, _, sandbox, ask, take_along = examples("README.md")
    callback, register, *_ = examples("docs/http.md")
    embedded = empty_database_url.startswith("sqlite")
    if not embedded:
        environment["DATABASE_URL"] = empty_database_url
        terminal(clone, "make install && .venv/bin/esms-calls migrate", environment)
    with background(clone, f"exec {serve.commands}", environment) as (server, shown):
        _wait_for("127.0.0.1:8000", shown)  # it installs first
        wait_until_healthy("http://127.0.0.1:8000", server)
        assert_shown(serve.output, shown.read_text())
        # What follows is the same on both, and each command has tests of its own on each.
        if not embedded:
            return
        with background(clone, sandbox.commands, environment) as (_, progress):
            _wait_for("Answering look-ups", progress)
            assert_shown(sandbox.output, progress.read_text())
            assert_shown(ask.output, terminal(clone, ask.commands, environment))
            assert '"reference_id":' in terminal(clone, f". .venv/bin/activate\n{take_along.commands}", environment)
        assert len((clone / "calls.csv").read_text().splitlines()) == 201

        alarm = sandbox.commands.replace("--lost 0.02 --seed 1", "--lost 0.3 --seed 2")
        assert "--lost 0.3 --seed 2" in (ROOT / "README.md").read_text()
        with background(clone, alarm, environment) as (_, progress):
            _wait_for("Answering look-ups", progress)
            needs_a_person = terminal(clone, ask.commands, environment, returncode=1)
            assert re.search(r"^! .*LOOKUP_SHARE_WARN", needs_a_person, re.MULTILINE)

        assert_shown(callback.output, terminal(clone, callback.commands, environment))
        assert_shown('{"result": "duplicate"}', terminal(clone, callback.commands, environment))
        assert_shown(register.output, terminal(clone, register.commands, environment))


def _wait_for(words: str, file: Path) -> None:
    until(lambda: words in file.read_text(), 600, f"{words} in {file.read_text()}", pause=0.2)
