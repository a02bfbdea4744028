"""Runs the program as a user does: its commands in processes of their own, its server on a free port."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TextIO

import requests
from constants import API_TOKEN, CALLBACK_TOKEN
from server_forks import Fork

from webapp.cli.commands import COMMANDS
from webapp.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.context import ForkServerProcess

COMMAND = str(Path(sys.executable).with_name("esms-calls"))
PROCESSES = multiprocessing.get_context("forkserver")
"""Processes that are forked from one that has imported the program: each begins in milliseconds, not in a second."""
PROCESSES.set_forkserver_preload(
    [f"webapp.cli.{name.replace('-', '_')}" for name in COMMANDS]
    + ["webapp.app", "alembic.command", "hypothesis.strategies", "sqlalchemy.dialects.postgresql.psycopg", "frozen"]
)


class Program:
    """``esms-calls`` in a process of its own, with the environment of this one and more; all it prints goes to files.

    It ends, at the latest, with this process. CONSTANTS in the environment is JSON: other values for constants of the
    program, such as long deadlines, by module and name; those of a timedelta in seconds.
    """

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        stdin: str = "",
        stdout: Path | None = None,
        stderr: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start it, in a process group of its own."""
        self._files = ExitStack()
        self._stdout = None if stdout else self._file()
        self._stderr = None if stderr else self._file()
        files = [
            _path(self._file(stdin)) if stdin else os.devnull,
            str(stdout or _path(self._stdout)),
            str(stderr or _path(self._stderr)),
        ]
        inherited = {**os.environ, **environment}
        self._process = _start(arguments, inherited, str(folder or Path.cwd()), files)

    @property
    def pid(self) -> int:
        """Also the number of its process group."""
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        self._process.join(0)
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same, as subprocess.Popen has it."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises TimeoutError."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"it still runs after {timeout} s")
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; standard output and standard error, where no other files were given for these."""
        self.wait(timeout)
        return _content(self._stdout), _content(self._stderr)

    def said(self) -> str:
        """Standard error up to now, where no other file was given for it."""
        return _content(self._stderr)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and its children at once; wait until they are dead, because they may hold a port."""
        children = self.children()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # it may not have become a group yet
        self._process.join()
        while any(map(_lives, children)):
            time.sleep(0.01)

    def children(self) -> list[int]:
        """The processes that it has started."""
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None:
            self.kill()
        self._files.close()

    def _file(self, content: str = "") -> TextIO:
        file = self._files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115
        file.write(content)
        file.flush()
        return file


def _lives(pid: int) -> bool:
    """Whether any thread of it runs: a killed one may still be in a system call, and holds all files meanwhile."""
    with suppress(OSError):
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return any(state not in "ZX" for state in states)
    return False


def _path(file: TextIO | None) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}" if file else os.devnull


def _content(file: TextIO | None) -> str:
    if file is None:
        return ""
    file.seek(0)
    return file.read()


def _start(
    arguments: tuple[str, ...], environment: dict[str, str], folder: str, files: list[str]
) -> Fork | ForkServerProcess:
    if arguments[0] == "serve":
        return Fork(arguments, environment, folder, files)
    process = PROCESSES.Process(target=become, args=(arguments, environment, folder, files), daemon=True)
    process.start()
    return process


def become(arguments: tuple[str, ...], environment: dict[str, str], folder: str, files: list[str]) -> None:
    """Be ``esms-calls`` in this new process, in a process group of its own."""
    os.setsid()
    for descriptor, file in enumerate(files):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT if descriptor else os.O_RDONLY
        os.dup2(os.open(file, flags | os.O_NOCTTY, 0o644), descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the end of the process
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [COMMAND, *arguments]
    if arguments[0] != "serve":  # a server is yet to import its own
        set_constants()
    main()


def set_constants() -> None:
    """Give constants the values in the environment's CONSTANTS."""
    for name, value in json.loads(os.environ.pop("CONSTANTS", "{}")).items():
        module, _, constant = name.rpartition(".")
        target = importlib.import_module(module)
        is_length = isinstance(getattr(target, constant), timedelta)
        setattr(target, constant, timedelta(seconds=value) if is_length else value)


class Running(Protocol):
    """A process: a Program, or one of subprocess."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def esms_calls(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """One command, run to its end, with what it printed."""
    return run(Program(*arguments, stdin=stdin, environment=environment))


def run(program: Program) -> subprocess.CompletedProcess[str]:
    """The end of a command, with what it printed."""
    with program:
        stdout, stderr = program.communicate(timeout=300)
        return subprocess.CompletedProcess([COMMAND], program.wait(), stdout, stderr)


def settings_in(folder: Path, **more: str) -> dict[str, str]:
    """The settings of a server on SQLite that keeps all it has in the folder, with the tokens of the tests."""
    return {
        "DATABASE_URL": f"sqlite:///{folder / 'calls.db'}",
        "INSTANCE_DIR": str(folder / "instance"),
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "API_TOKEN": API_TOKEN,
        **more,
    }


@contextmanager
def serving(log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """The address of a server that runs until the end of the block; all that it prints goes to ``log``."""
    address = f"127.0.0.1:{free_port()}"
    log.write_text("")
    with Program("serve", "--bind", address, *arguments, stdout=log, stderr=log, environment=environment) as server:
        wait_until_healthy(f"http://{address}", server)
        yield f"http://{address}"
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=40)


def metrics_folder(server: int) -> Path:
    """The folder of a running server's counts: it holds a file in it open to show that it uses the folder."""
    opened = [link.readlink() for link in Path(f"/proc/{server}/fd").iterdir() if link.is_symlink()]
    (mark,) = (path for path in opened if path.match("esms-calls-metrics-*/in-use"))
    return mark.parent


def wait_until_healthy(url: str, server: Running, *, seconds: int = 30) -> None:
    """Return once the server answers; fail if it ends instead."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            requests.get(f"{url}/healthz", timeout=5).raise_for_status()
        except requests.RequestException:
            time.sleep(0.03)
        else:
            return
    raise AssertionError(f"the server did not answer within {seconds} s")
