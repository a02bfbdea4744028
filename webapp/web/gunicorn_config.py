"""How gunicorn serves the application: gunicorn reads this module as its configuration file."""

from __future__ import annotations

import gc
import math
import os
import resource
import shutil
from typing import TYPE_CHECKING

from gunicorn.glogging import Logger
from prometheus_client import multiprocess

from webapp.support import files, log
from webapp.support.settings import load_settings
from webapp.support.workarounds import gunicorn_parser
from webapp.support.workarounds.log_pipe import PipeHandler

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker as AnyWorker

_settings = load_settings()
_MOST_CONNECTIONS, _OTHER_FILES = 5000, 100
"""Per worker; more than may be pending in the batch writer, so that too many callbacks are answered 503."""


def _connections() -> int:
    """As many as the limit of open files allows, which ``serve`` has raised."""
    files_at_most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files_at_most < 0 else max(1, min(_MOST_CONNECTIONS, files_at_most - _OTHER_FILES))


worker_class = "webapp.web.fast_path.FastWorker" if _settings.fast_path else "webapp.web.worker.Worker"
logger_class = "webapp.web.gunicorn_config.Log"
worker_connections = _connections()
timeout = 60
graceful_timeout = max(5, math.ceil(_settings.answer_within.total_seconds()))  # each callback has its answer then
keepalive = 15  # seconds for the head of a request, too
backlog = 2048
limit_request_line = 8190
sendfile = False  # it would pass by the head of the answer, which a connection sends together with the body
control_socket_disable = True
forwarded_allow_ips = ""  # only TRUSTED_PROXIES says whose X-Forwarded headers count
worker_tmp_dir = str(files.MEMORY)
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    # A function: at debug level gunicorn logs all its settings, and so no secret may be among them.
    "formatters": {"line": {"()": lambda: log.formatter(_settings)}},
    "handlers": {"stderr": {"()": PipeHandler, "formatter": "line", "plain": _settings.log_format == "text"}},
    "root": {"level": log.level(_settings), "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": log.level(_settings), "handlers": ["stderr"], "propagate": False},
        "alembic": {"level": "WARNING"},
    },
}


class Log(Logger):  # type: ignore[misc]
    """Writes no access log: the application does. gunicorn's would show the callback token in the path."""

    def access(self, *_request: object) -> None:
        """Log nothing."""


gunicorn_parser.install()


def when_ready(_server: Arbiter) -> None:
    """Exempt what is imported from garbage collection: the workers share its memory then, and end much sooner."""
    gc.freeze()


def post_worker_init(worker: AnyWorker) -> None:
    """Check the database, drain what an earlier process left in the spool, and keep the figures up to date."""
    extensions = worker.app.wsgi().extensions
    extensions["ingest"].start()
    extensions["refresher"].start()


def worker_exit(_server: Arbiter, worker: AnyWorker) -> None:
    """Store what is counted in memory only."""
    if worker.booted:
        worker.app.wsgi().extensions["token_counter"].close()


def child_exit(_server: Arbiter, worker: AnyWorker) -> None:
    """Drop the gauges of a worker that ended; its counts stay."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Arbiter) -> None:
    """Remove the metrics files."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
