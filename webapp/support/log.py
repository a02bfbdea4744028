"""Log lines that show no secret and cannot be forged."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from webapp.support import log_context
from webapp.support.redaction import longest_first, redact
from webapp.support.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from webapp.support.settings import Settings


class Formatter(logging.Formatter):
    """One record, one line that begins with the time; further lines, of tracebacks, begin with a bar.

    A request id that a proxy gave stands at the end of the first line.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take ``secrets`` out of every line."""
        super().__init__()
        self._secrets = tuple(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """Take these out of every line, too."""
        self._secrets = longest_first({*self._secrets, *secrets})

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """The first line."""
        return _first_line(record.created, record.levelname, record.name, record.message)

    def format(self, record: logging.LogRecord) -> str:
        """The record as it is written."""
        return self._shown(super().format(record))

    def line(self, level: str, name: str, message: str) -> str:
        """What is written now of a record with this message, without the cost of a record."""
        return self._shown(_first_line(time.time(), level, name, message))

    def _shown(self, text: str) -> str:
        return printable(redact(text, self._secrets), keep="\n").replace("\n", "\n  | ")


def _first_line(created: float, level: str, name: str, message: str) -> str:
    second = int(created)
    line = f"{_second(second)},{int((created - second) * 1000):03d} {level} {name}: {message}"
    context = log_context.current.get()
    return f"{line} request_id={context.given_id}" if context and context.given_id else line


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def formatter(settings: Settings) -> logging.Formatter:
    """The form that LOG_FORMAT names, without the secrets of the settings."""
    secrets = _spellings(settings.secrets())
    if settings.log_format == "text":
        return Formatter(secrets)
    from webapp.support.log_json import JsonFormatter  # noqa: PLC0415 - only where it is asked for

    return JsonFormatter(secrets)


def hide(secrets: Iterable[str]) -> None:
    """Take secrets that this process did not know before out of every line, too."""
    spelled = _spellings(secrets)
    handlers = [*logging.getLogger().handlers, *logging.getLogger("gunicorn.error").handlers]
    for one in {handler.formatter for handler in handlers}:
        if hide_in := getattr(one, "hide", None):
            hide_in(spelled)


def level(settings: Settings, default: int = logging.INFO) -> int:
    """The number of LOG_LEVEL; ``default`` where it is not set."""
    return logging.getLevelNamesMapping()[settings.log_level.upper()] if settings.log_level else default


def configure(settings: Settings, *, default_level: int = logging.INFO) -> None:
    """Send the log of this process to standard error, redacted, unless the process has a log handler already."""
    if settings.log_format == "json":
        _log_uncaught_exceptions()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings))
    logging.basicConfig(handlers=[handler], level=level(settings, default_level))
    # gunicorn's handlers are older than a token that was rotated since.
    hide(settings.secrets())
    # No line shows these: looking them up for each record costs time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - its documentation says so
    # At debug level urllib3 writes the URLs that it asks, with the keys in them.
    for name in ("alembic", "psycopg", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("access").setLevel(logging.NOTSET if settings.access_log else logging.WARNING)


def info(logger: logging.Logger, message: str, fields: Callable[[], dict[str, Any]]) -> None:
    """Log a line that every request writes; ``fields`` gives what it says by name, for JSON.

    Text goes straight to the stream: a LogRecord and its way through ``logging`` cost a sixth of a callback.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    handlers = logging.getLogger().handlers
    only = handlers[0] if len(handlers) == 1 else None
    if isinstance(only, logging.StreamHandler) and type(only.formatter) is Formatter:
        with suppress(Exception):  # Logging it again deals with whatever it is.
            only.stream.write(f"{only.formatter.line('INFO', logger.name, message)}\n")
            return
    logger.info("%s", message, extra={"fields": fields})


def message(words: str) -> bool:
    """Log what a command says on standard error, where the log is JSON. False: it is not, so print the words."""
    if not any(getattr(handler.formatter, "is_json", False) for handler in logging.getLogger().handlers):
        return False
    # What a command says is its result, and no matter of LOG_LEVEL.
    command = logging.getLogger("esms-calls")
    command.setLevel(logging.INFO)
    severities = {"Error": logging.ERROR, "Warning": logging.WARNING}
    lines = words.strip().splitlines()
    found = (severities[word] for line in lines if (word := line.partition(":")[0]) in severities)
    if lines:
        command.log(max(found, default=logging.INFO), "%s", "\n".join(lines))
    return True


def _log_uncaught_exceptions() -> None:
    """Log exceptions that end a thread or this process; Python would print them, and not as JSON."""
    sys.excepthook = unhandled
    threading.excepthook = lambda found: unhandled(found.exc_type, found.exc_value, found.exc_traceback)
    logging.captureWarnings(capture=True)


def unhandled(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Log an uncaught exception."""
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("webapp").error(
            "unexpected error; this is a bug", exc_info=(kind, error or kind(), traceback)
        )


def _spellings(secrets: Iterable[str]) -> tuple[str, ...]:
    """The secrets, also as they stand in the ``repr`` of a text and in JSON; longer ones first."""
    return longest_first({form for one in secrets for form in (one, repr(one)[1:-1], json.dumps(one)[1:-1])})
