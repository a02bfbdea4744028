"""Starts servers as forks of one process that has imported what they need: 0.2 seconds of work instead of one.

``esms-calls serve`` ends by replacing its process by a new Python, which imports gunicorn, gevent and the rest. Here
the process goes on instead, because it is a fork of one that has imported them in the same order: gevent's patch first.
The tour of the README, the traces of system calls and the tests of Ctrl-C start servers as a user does.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMPORTED = (
    *("webapp.cli.serve", "webapp.esms.callback", "webapp.storage.writer", "webapp.storage.rejected"),
    *("alembic.command", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite"),
    *(
        "flask",
        "flask_babel",
        "flask_wtf",
        "gunicorn.app.wsgiapp",
        "gunicorn.arbiter",
        "gunicorn.glogging",
        "gunicorn.workers.ggevent",
    ),
)
"""Nothing of prometheus_client: it decides while it is imported in which folder it counts."""


class _Replaced(BaseException):
    """The process is to be replaced by a new Python with these arguments and this environment."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.arguments, self.environment = arguments, environment


class Fork:
    """A server that runs; it ends, at the latest, with this process."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], folder: str, files: list[str]) -> None:
        """Start ``esms-calls`` with these arguments; ``files`` are its standard input, output and error."""
        self._status = socket.socket(socket.AF_UNIX)
        self._status.connect(_prepared())
        self._status.sendall(json.dumps([arguments, environment, folder, files]).encode() + b"\n")
        self.pid = int(self._line())
        self.exitcode: int | None = None
        """As multiprocessing has it; see ``join``."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, this many seconds at most."""
        if self.exitcode is None:
            self._status.settimeout(timeout)
            with suppress(TimeoutError, BlockingIOError):
                self.exitcode = int(self._line())
                self._status.close()

    def kill(self) -> None:
        """End it at once."""
        self.join(0)
        if self.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)

    def _line(self) -> bytes:
        return self._status.recv(20)


class _Run(NamedTuple):
    """The processes that use one prepared process together: a test run, or this process alone."""

    folder: Path
    first: int
    """The process with whose end all ends."""


_RUN: list[_Run] = []
_KEPT: list[Any] = []
"""What must last as long as this process."""


def share_prepared(folder: Path, first: int) -> None:
    """Use one prepared process with all that are given the same folder, until process ``first`` ends."""
    _RUN[:] = [_Run(folder, first)]


@cache
def _prepared() -> str:
    """The socket of the process that has imported everything."""
    if not _RUN:
        _KEPT.append(folder := TemporaryDirectory(prefix="esms-calls-"))
        share_prepared(Path(folder.name), os.getpid())
    (run,) = _RUN
    path = run.folder / "servers"
    with (run.folder / "servers-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _prepare(path, run.first)
    return str(path)


def _prepare(path: Path, first: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(path), str(first), *sys.path], stdin=subprocess.DEVNULL
    )
    _KEPT.append(process)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


def _main(path: str, first: int) -> None:
    """Import everything, and fork for each connection, until process ``first`` ends."""
    gc.disable()
    from gevent import monkey

    monkey.patch_all()
    for name in _IMPORTED:
        importlib.import_module(name)
    assert "prometheus_client" not in sys.modules
    # What is imported lasts: no server need look through it, and get pages of its own for that.
    gc.collect()
    gc.freeze()
    # gevent has no hub yet, and must have none: it would be forked too.
    fork, poll, real_socket = (
        monkey.get_original(*names) for names in (("os", "fork"), ("select", "poll"), ("socket", "socket"))
    )
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = real_socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(16)
    Path(f"{path}.new").rename(path)
    ended = os.pidfd_open(first)
    either = poll()
    either.register(listener)
    either.register(ended)
    while all(ready == listener.fileno() for ready, _ in either.poll()):
        connection, _ = listener.accept()
        if fork() == 0:
            listener.close()
            os.close(ended)
            _attend(connection, fork, poll)
        connection.close()


def _attend(connection: Any, fork: Any, poll: Any) -> None:
    """Start a server, send its pid and, when it ends, its status; end it when the other side is gone."""
    from gevent import monkey

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile("rb") as request:
        arguments = json.loads(request.readline())
    pid = fork()
    if pid == 0:
        connection.close()
        _serve(*arguments)
    connection.sendall(b"%d" % pid)
    ended = os.pidfd_open(pid)
    either = poll()
    either.register(ended)
    either.register(connection, 0)  # only its end
    if all(ready != ended for ready, _ in either.poll()):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status = monkey.get_original("os", "waitpid")(pid, 0)
    with suppress(OSError):
        connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _serve(arguments: list[str], environment: dict[str, str], folder: str, files: list[str]) -> NoReturn:
    from running import become, set_constants

    def replace(_program: str, arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
        raise _Replaced(arguments, environment)

    os.execve = replace  # type: ignore[assignment]
    try:
        become(tuple(arguments), environment, folder, files)
        sys.exit()
    except _Replaced as new:
        place = new.arguments.index("-c")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(new.environment)
        sys.argv = ["-c", *new.arguments[place + 2 :]]
        program = new.arguments[place + 1]
        set_constants()
    import gevent
    from gunicorn.config import Chdir
    from gunicorn.workers import ggevent

    Chdir.default = str(Path.cwd())  # found out when gunicorn was imported
    ggevent.gevent = _Awake()
    gevent.get_hub().destroy(destroy_loop=True)
    code: object = 0
    try:
        exec(program, {"__name__": "__main__"})  # noqa: S102 - what the new Python would be given
    except SystemExit as end:
        code = end.code
    _end(code)


class _Awake:
    """The module gevent for gunicorn's worker, which looks ten times as often as usual whether it is to end."""

    def __getattr__(self, name: str) -> Any:
        import gevent

        return getattr(gevent, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleep no longer than a tenth of a second."""
        import gevent

        gevent.sleep(min(seconds, 0.1))


def _end(code: object) -> NoReturn:
    """End the process, server or worker, as Python does, but without taking apart all that was imported before."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    # The tests' own helpers are found as they are in the tests.
    sys.path[:] = sys.argv[3:]
    _main(sys.argv[1], int(sys.argv[2]))
