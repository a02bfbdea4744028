"""The receivers that are measured: how each is started, on which database, and which of its processes are which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import requests
from running import COMMAND, free_port

from bench.load import ROOT, TOKEN, callback_url, find, new_call

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS = 60
_STOP_SECONDS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to receive: a command that serves on ``{address}``, and the commands of what must run beside it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[Sequence[str]] = ()
    folder: Path = ROOT
    database: str | None = None
    """SQLAlchemy URL of the database in which its history is; None: it keeps none there."""


@dataclass(slots=True, kw_only=True)
class Server:
    """A contestant that runs: its address, and its processes."""

    url: str
    process: subprocess.Popen[bytes]
    beside: list[subprocess.Popen[bytes]]


def gunicorn(module: str, kind: str, *options: str) -> list[str]:
    """The command of a Flask peer: two workers, as the program has."""
    fixed = ["--bind", "{address}", "--workers", "2", "--worker-class", kind, "--log-level", "warning"]
    return [sys.executable, "-m", "gunicorn", *fixed, *options, f"bench.peers.{module}:app"]


def threaded(module: str) -> list[str]:
    """The command of a Flask peer on 2 processes of 32 threads."""
    return gunicorn(module, "gthread", "--threads", "32")


def ours(folder: Path, database: str | None) -> Contestant:
    """The program as users run it; without a database it is the embedded SQLite in ``folder``."""
    folder.mkdir(exist_ok=True)
    environment = {
        "DATABASE_URL": database or "",
        "INSTANCE_DIR": str(folder / "instance"),
        "CALLBACK_TOKEN": TOKEN,
    }
    if database:
        migrate = [COMMAND, "migrate"]
        subprocess.run(migrate, check=True, env=os.environ | environment, cwd=folder, stdout=subprocess.DEVNULL)
    return Contestant(
        name="ours",
        command=[COMMAND, "serve", "--bind", "{address}"],
        environment=environment,
        folder=folder,
        database=database or f"sqlite:///{folder / 'instance' / 'calls.db'}",
    )


def floor(kind: str = "gthread") -> Contestant:
    """Flask alone."""
    command = threaded("floor") if kind == "gthread" else gunicorn("floor", kind)
    return Contestant(name="floor" if kind == "gthread" else f"floor on {kind}", command=command)


def naive(database: str, *, orm: bool = True) -> Contestant:
    """Flask, SQLAlchemy, a commit for each request."""
    environment = {"DATABASE_URL": database} | ({} if orm else {"WITHOUT_ORM": "1"})
    name = "naive" if orm else "naive without ORM"
    return Contestant(name=name, command=threaded("naive"), environment=environment, database=database)


def asynchronous(database: str) -> Contestant:
    """FastAPI, asyncpg, one statement for each request."""
    command = [sys.executable, "-m", "uvicorn", "--workers", "2", "--no-access-log", "--log-level", "warning"]
    return Contestant(
        name="async",
        command=[*command, "--host", "{host}", "--port", "{port}", "bench.peers.asynchronous:app"],
        environment={"DATABASE_URL": for_libpq(database)},
        database=database,
    )


def queue(folder: Path, database: str) -> Contestant:
    """Flask and Redis, and a worker that stores."""
    folder.mkdir(exist_ok=True)
    port = str(free_port())
    redis = [find("redis-server", "redis-server"), "--bind", "127.0.0.1", "--port", port, "--dir", str(folder)]
    return Contestant(
        name="queue",
        command=threaded("redis_queue"),
        environment={"DATABASE_URL": for_libpq(database), "REDIS_PORT": port},
        beside=[redis, [sys.executable, "-m", "bench.peers.redis_queue"]],
        database=database,
    )


def for_libpq(database: str) -> str:
    """A database's URL without the name of SQLAlchemy's driver."""
    return database.replace("postgresql+psycopg://", "postgresql://", 1)


@contextmanager
def serving(contestant: Contestant, log: Path) -> Iterator[Server]:
    """A contestant that has answered one callback 200, until the end of the block; what it prints goes to ``log``."""
    address = f"127.0.0.1:{free_port()}"
    with log.open("ab") as output:
        beside = [start(contestant, command, address, output) for command in contestant.beside]
        server = Server(
            url=f"http://{address}",
            process=start(contestant, contestant.command, address, output),
            beside=beside,
        )
        try:
            wait_until_it_takes_callbacks(server, log)
            yield server
        finally:
            for process in (server.process, *reversed(server.beside)):
                _stop(process)


def start(contestant: Contestant, command: Sequence[str], address: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """One process of a contestant, first of a group of its own."""
    host, _, port = address.partition(":")
    return subprocess.Popen(
        [part.format(address=address, host=host, port=port) for part in command],
        env={**os.environ, **contestant.environment, "PYTHONPATH": str(ROOT)},
        cwd=contestant.folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children without a word to them."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_it_takes_callbacks(server: Server, log: Path) -> None:
    """Return once a callback is answered 200; raises RuntimeError if the server ends or does not come."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        try:
            if requests.get(callback_url(server.url, new_call()), timeout=10).status_code == requests.codes.ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"{server.process.args!r} does not take callbacks:\n{last}")


def memory(process: subprocess.Popen[bytes]) -> int:
    """Bytes that a process and all below it hold, pages that they share counted once (PSS and its swap)."""
    return sum(_pss(pid) for pid in _family(process.pid))


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before it may hold anything, brackets too.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, []))
    return family


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss:", "SwapPss:")))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            kill(process)
