"""Log lines that show no secret and cannot be forged."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from webapp.support.redaction import redact
from webapp.support.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


class Formatter(logging.Formatter):
    """One record, one line that begins with the time; further lines, of tracebacks, begin with a bar."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take ``secrets`` out of every line."""
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = tuple(secrets)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        """The record's time, in milliseconds."""
        return f"{_second(int(record.created))},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """The record as it is written."""
        text = redact(super().format(record), self._secrets)
        return printable(text, keep="\n").replace("\n", "\n  | ")


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def configure(secrets: Iterable[str], *, level: int = logging.INFO) -> None:
    """Send the log of this process to standard error, redacted, unless the process has a log handler already."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(secrets))
    logging.basicConfig(handlers=[handler], level=level)
    # No line shows these: looking them up for each record costs time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # At debug level urllib3 writes the URLs that it asks, with the keys in them.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
