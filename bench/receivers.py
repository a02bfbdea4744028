"""The receivers that are measured: how each one is started, on which database, and which processes belong to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import requests

from bench.load import API_TOKEN, CALLBACK_TOKEN, callback_url, find, new_call
from bench.programs import ROOT, THIS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.programs import Program

_START_SECONDS = 60
_STOP_SECONDS = 40

WITHOUT_FAST_PATH = {"FAST_PATH": "off"}
GUNICORNS_OWN_WORKER = {"FAST_PATH": "off", "GUNICORN_CMD_ARGS": "--worker-class gevent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A command that serves on ``{address}``, and commands that must run beside it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[Sequence[str]] = ()
    folder: Path = ROOT
    database: str | None = None
    """SQLAlchemy URL of the database that has its history; None: it stores nothing there."""
    must_not_fail: bool = False
    """Whether an answer other than 200, or a lost callback, makes the benchmark fail."""


@dataclass(slots=True, kw_only=True)
class Server:
    """A receiver that runs: its address, and its processes."""

    url: str
    process: subprocess.Popen[bytes]
    beside: list[subprocess.Popen[bytes]]


def ours(
    folder: Path,
    database: str | None,
    *,
    name: str = "ours",
    program: Program = THIS,
    environment: Mapping[str, str] | None = None,
) -> Receiver:
    """The program as users run it, its database migrated; without a database: the embedded SQLite in ``folder``."""
    folder.mkdir(exist_ok=True)
    settings = {
        **program.environment,
        "DATABASE_URL": database or "",
        "INSTANCE_DIR": str(folder / "instance"),
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "API_TOKEN": API_TOKEN,
        **(environment or {}),
    }
    migrate = program.command("migrate")
    subprocess.run(migrate, check=True, env=os.environ | settings, cwd=folder, stdout=subprocess.DEVNULL)
    return Receiver(
        name=name,
        command=program.command("serve", "--bind", "{address}"),
        environment=settings,
        folder=folder,
        database=database or f"sqlite:///{folder / 'instance' / 'calls.db'}",
        must_not_fail=True,
    )


def floor(kind: str = "gthread") -> Receiver:
    """Flask alone."""
    command = _threaded("floor") if kind == "gthread" else _gunicorn("floor", kind)
    return Receiver(name="floor" if kind == "gthread" else f"floor on {kind}", command=command)


def naive(database: str, *, orm: bool = True) -> Receiver:
    """Flask, SQLAlchemy, a commit for each request."""
    environment = {"DATABASE_URL": database} | ({} if orm else {"WITHOUT_ORM": "1"})
    name = "naive" if orm else "naive without ORM"
    return Receiver(name=name, command=_threaded("naive"), environment=environment, database=database)


def asynchronous(database: str) -> Receiver:
    """FastAPI, asyncpg, one statement for each request."""
    command = [sys.executable, "-m", "uvicorn", "--workers", "2", "--no-access-log", "--log-level", "warning"]
    return Receiver(
        name="async",
        command=[*command, "--host", "{host}", "--port", "{port}", "bench.peers.asynchronous:app"],
        environment={"DATABASE_URL": for_libpq(database)},
        database=database,
    )


def queue(folder: Path, database: str) -> Receiver:
    """Flask and Redis, and a worker that stores."""
    folder.mkdir(exist_ok=True)
    port = str(free_port())
    redis = [find("redis-server", "redis-server"), "--bind", "127.0.0.1", "--port", port, "--dir", str(folder)]
    return Receiver(
        name="queue",
        command=_threaded("redis_queue"),
        environment={"DATABASE_URL": for_libpq(database), "REDIS_PORT": port},
        beside=[redis, [sys.executable, "-m", "bench.peers.redis_queue"]],
        database=database,
    )


def for_libpq(database: str) -> str:
    """A database's URL without the name of SQLAlchemy's driver."""
    return database.replace("postgresql+psycopg://", "postgresql://", 1)


def _threaded(module: str) -> list[str]:
    """The command of a Flask peer on 2 processes of 32 threads."""
    return _gunicorn(module, "gthread", "--threads", "32")


def _gunicorn(module: str, kind: str, *options: str) -> list[str]:
    """The command of a Flask peer: two workers, as the program has."""
    fixed = ["--bind", "{address}", "--workers", "2", "--worker-class", kind, "--log-level", "warning"]
    return [sys.executable, "-m", "gunicorn", *fixed, *options, f"bench.peers.{module}:app"]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(receiver: Receiver, log: Path) -> Iterator[Server]:
    """A receiver that has answered one callback 200, until the end of the block; its output goes to ``log``."""
    address = f"127.0.0.1:{free_port()}"
    with log.open("ab") as output:
        beside = [start(receiver, command, address, output) for command in receiver.beside]
        server = Server(
            url=f"http://{address}",
            process=start(receiver, receiver.command, address, output),
            beside=beside,
        )
        try:
            _wait_until_it_answers(server, log)
            yield server
        finally:
            for process in (server.process, *reversed(server.beside)):
                _stop(process)


def start(receiver: Receiver, command: Sequence[str], address: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """One process of a receiver, first of a group of its own."""
    host, _, port = address.partition(":")
    return subprocess.Popen(
        [part.format(address=address, host=host, port=port) for part in command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **receiver.environment},
        cwd=receiver.folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children (SIGKILL)."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_it_answers(server: Server, log: Path) -> None:
    """Return once a callback is answered 200; raises RuntimeError if the server ends or does not start."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        try:
            if requests.get(callback_url(server.url, new_call()), timeout=10).status_code == requests.codes.ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"{server.process.args!r} does not answer callbacks:\n{last}")


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """Processor time that a process and all below it have used."""
    ticks = 0
    for pid in _with_descendants(process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(process: subprocess.Popen[bytes]) -> int:
    """Bytes that a process and all below it use; pages that they share count once (PSS and its swap)."""
    return sum(_pss(pid) for pid in _with_descendants(process.pid))


def _with_descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The process's name in brackets may contain anything, brackets too: what follows the last one is safe.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    pids = [pid]
    for member in pids:
        pids.extend(children.get(member, []))
    return pids


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
