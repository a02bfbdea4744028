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

from gunicorn.glogging import Logger
from prometheus_client import multiprocess

from webapp.support import files
from webapp.support.log import Formatter
from webapp.support.settings import load_settings
from webapp.support.workarounds import gunicorn_parser
from webapp.support.workarounds.log_pipe import Handler

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker as AnyWorker

_settings = load_settings()
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
# gunicorn looks into the working folder first: a webapp there must not be taken for this one, imported before.
# What waits is made to give way before anything else is imported, for that keeps what it found.
_START = (
    "from gevent import monkey; monkey.patch_all(); "
    "import webapp.web.gunicorn_config, gunicorn.app.wsgiapp; gunicorn.app.wsgiapp.run()"
)
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - for folders that are made private
_MOST_CONNECTIONS, _OTHER_FILES = 5000, 100
"""Of a worker; more than reports may wait there, so that beyond these the answer is 503, and not silence."""


def _connections() -> int:
    """As many as a worker may have open files for, as ``serve`` has raised their number."""
    files_at_most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files_at_most < 0 else max(1, min(_MOST_CONNECTIONS, files_at_most - _OTHER_FILES))


worker_class = "webapp.web.fast_path.FastWorker" if _settings.fast_path else "webapp.web.worker.Worker"
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
    "formatters": {"line": {"()": Formatter, "secrets": _settings.secrets()}},
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


gunicorn_parser.install()


def post_worker_init(worker: AnyWorker) -> None:
    """See whether the database is there, and begin to drain what an earlier process left in the spool."""
    worker.app.wsgi().extensions["ingest"].start()


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
