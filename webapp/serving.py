"""How gunicorn serves the application: its settings, read by gunicorn itself (``-c python:webapp.serving``)."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from prometheus_client import multiprocess

from webapp.config import load_settings
from webapp.log import Formatter

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

_METRICS = "PROMETHEUS_MULTIPROC_DIR"
# gunicorn looks into the working folder first: a webapp there must not be taken for this one, imported before.
_START = "import webapp.serving, gunicorn.app.wsgiapp; gunicorn.app.wsgiapp.run()"
_SILENCE_SECONDS = 10

worker_class = "gthread"
threads = 128  # idle connections hold a thread each for a while: 50 of them leave enough
worker_connections = 1000
timeout = 60
graceful_timeout = 25
keepalive = 15
backlog = 2048
limit_request_line = 8190
control_socket_disable = True
forwarded_allow_ips = ""  # TRUSTED_PROXIES alone says whose headers are believed
accesslog = None  # the application writes one, without paths; gunicorn's would show the callback token
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - made by gunicorn, private
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": Formatter, "secrets": load_settings().secrets()}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False},
        "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
    },
}


def when_ready(server: Arbiter) -> None:
    """Let no connection wait longer for what its peer does not send: gunicorn itself would keep its thread for ever."""
    for listener in server.LISTENERS:
        # Connections inherit it.
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SILENCE_SECONDS, 0))


def child_exit(_server: Arbiter, worker: Worker) -> None:
    """Let the metrics know that a worker is gone; what it counted stays."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Arbiter) -> None:
    """Leave no metrics behind."""
    shutil.rmtree(os.environ[_METRICS], ignore_errors=True)


def serve(bind: str, workers: int) -> NoReturn:
    """Become gunicorn: this process is replaced, so that signals reach it and it is the container's first."""
    environment: dict[str, Any] = os.environ | {_METRICS: tempfile.mkdtemp(prefix="esms-calls-metrics-")}
    arguments = ["-c", "python:webapp.serving", "--bind", bind, "--workers", str(workers), "webapp:create_app()"]
    os.execve(sys.executable, [sys.executable, "-P", "-c", _START, *arguments], environment)  # noqa: S606
