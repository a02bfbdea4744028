"""How gunicorn serves the application: gunicorn reads this module as its configuration file."""

from __future__ import annotations

import os
import resource
import shutil
from typing import TYPE_CHECKING

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
worker_tmp_dir = str(files.MEMORY)
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
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
