"""How gunicorn serves the application: gunicorn reads this module as its configuration file."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote_from_bytes

from gunicorn import SERVER
from gunicorn.glogging import Logger
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker
from prometheus_client import multiprocess

from webapp.support import files
from webapp.support.log import Formatter, Handler
from webapp.support.settings import CALLBACK_PATH, load_settings
from webapp.web import fast_path

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker as AnyWorker

_METRICS = "PROMETHEUS_MULTIPROC_DIR"
# gunicorn looks into the working folder first: a webapp there must not be taken for this one, imported before.
# What waits is made to give way before anything else is imported, for that keeps what it found.
_START = (
    "from gevent import monkey; monkey.patch_all(); "
    "import webapp.web.gunicorn_config, gunicorn.app.wsgiapp; gunicorn.app.wsgiapp.run()"
)
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - for folders that are made private
_GATHERED_BYTES = 16 * 1024
_KEPT = bytes(range(0x21, 0x7F)).replace(b"#", b"").decode()
"""What a target may hold as it stands: gunicorn takes for a fragment, and drops, whatever a raw `#` begins."""

_MOST_CONNECTIONS, _OTHER_FILES = 5000, 100
"""Of a worker; more than reports may wait there, so that beyond these the answer is 503, and not silence."""
_CROWD_SECONDS = 1


def _connections() -> int:
    """As many as a worker may have open files for, as ``serve`` has raised their number."""
    files_at_most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files_at_most < 0 else max(1, min(_MOST_CONNECTIONS, files_at_most - _OTHER_FILES))


worker_class = "webapp.web.gunicorn_config.Worker"
logger_class = "webapp.web.gunicorn_config.Log"
worker_connections = _connections()
timeout = 60
graceful_timeout = 25
keepalive = 15  # also how long a connection may take over a request's head: idle ones cost little, and not for ever
backlog = 2048
limit_request_line = 8190
control_socket_disable = True
forwarded_allow_ips = ""  # TRUSTED_PROXIES alone says whose headers are believed
worker_tmp_dir = _MEMORY
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": Formatter, "secrets": load_settings().secrets()}},
    "handlers": {"stderr": {"()": Handler, "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False},
        "alembic": {"level": "WARNING"},
    },
}


class Log(Logger):  # type: ignore[misc]
    """Writes no access log: the application does, without paths; gunicorn's would show the callback token."""

    def access(self, *_request: object) -> None:
        """Say nothing."""


class _Gathered:
    """A connection on which the head and the body of an answer leave together: apart they cost twice as much."""

    def __init__(self, line: Any) -> None:
        self._line = line
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def sendall(self, content: bytes) -> None:
        self._waiting.append(content)
        if sum(map(len, self._waiting)) > _GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            content, self._waiting = b"".join(self._waiting), []
            self._line.sendall(content)


class _Begun:
    """A connection from which something was read already, and is to be read once more."""

    def __init__(self, line: Any, content: bytes) -> None:
        self._line = line
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def recv(self, size: int) -> bytes:
        content, self._content = self._content[:size], self._content[size:]
        return content or self._line.recv(size)


class _Listener:
    """Where connections come in, by its name; it may be closed already while one that came is still to be served."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves usual callbacks itself; answers what is no HTTP without a word of it: it may hold the callback token."""

    _open = 0

    def patch(self) -> None:
        """Prepare the listening sockets."""
        super().patch()
        self._listeners = {listener: _Listener(listener) for listener in self.sockets}

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve one connection. Where very many are open, one that says nothing is soon closed."""
        self._open += 1
        crowded = self._open > self.worker_connections // 2
        client.settimeout(_CROWD_SECONDS if crowded else self.cfg.keepalive)
        try:
            self._handle(listener, client, address)
        finally:
            self._open -= 1

    def _handle(self, listener: Any, client: Any, address: Any) -> None:
        """From the first request on that is no usual callback, the connection is gunicorn's."""
        remote_addr = address[0] if isinstance(address, tuple) else ""
        try:
            while (content := client.recv(fast_path.LONGEST)) and (environ := fast_path.read(content, remote_addr)):
                last = not self.alive or environ.get("HTTP_CONNECTION", "").lower() == "close"
                client.sendall(fast_path.answer(self.wsgi, environ, server=SERVER, last=last))
                if last:
                    return
        except OSError as error:
            self.log.debug("a connection ended: %s", error)
            return
        if content:
            super().handle(self._listeners[listener], _Begun(client, content), address)

    def handle_request(self, listener: object, request: object, client: Any, address: object) -> Any:
        """Answer one request."""
        gathered = _Gathered(client)
        try:
            return super().handle_request(listener, request, gathered, address)
        finally:
            gathered.flush()

    def handle_error(self, _request: object, client: Any, address: Any, error: BaseException) -> None:
        """Answer a request that cannot even be read."""
        self.log.warning("request from %s cannot be read: %s", address and address[0], type(error).__name__)
        body = b'{"error": "This is no HTTP request that can be read."}'
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:
            client.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
        except OSError:
            self.log.debug("and its sender is gone")


class _Request(Request):  # type: ignore[misc]
    """Reads a callback whose values were not URL-encoded (*assumed*: ``CallStatus=NO ANSWER`` as it stands)."""

    def parse_request_line(self, line_bytes: bytes) -> None:
        method, _, rest = line_bytes.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if target.startswith(CALLBACK_PATH.encode()):
            line_bytes = b" ".join([method, quote_from_bytes(target, safe=_KEPT).encode(), version])
        super().parse_request_line(line_bytes)


RequestParser.mesg_class = _Request


def post_worker_init(worker: AnyWorker) -> None:
    """See whether the database is there, and begin to drain what an earlier process left in the spool."""
    worker.wsgi.extensions["ingest"].begin()


def child_exit(_server: Arbiter, worker: AnyWorker) -> None:
    """Let the metrics know that a worker is gone; what it counted stays."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Arbiter) -> None:
    """Leave no metrics behind."""
    shutil.rmtree(os.environ[_METRICS], ignore_errors=True)


def serve(bind: str, workers: int) -> NoReturn:
    """Become gunicorn: this process is replaced, so that signals reach it and it is the container's first."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # In memory, where a full disk does not stop the counting.
    counts = files.folder_while_alive("esms-calls-metrics-", Path(_MEMORY or tempfile.gettempdir()))
    environment: dict[str, Any] = os.environ | {_METRICS: str(counts)}
    arguments = ["-c", f"python:{__name__}", "--bind", bind, "--workers", str(workers), "webapp:create_app()"]
    os.execve(sys.executable, [sys.executable, "-P", "-c", _START, *arguments], environment)  # noqa: S606
