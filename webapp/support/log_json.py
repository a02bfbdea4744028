"""Log records as JSON, one object a line (LOG_FORMAT=json)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from structlog.processors import ExceptionRenderer, JSONRenderer, StackInfoRenderer
from structlog.stdlib import ProcessorFormatter, add_log_level, add_logger_name

from webapp.support import log_context
from webapp.support.redaction import longest_first, redact
from webapp.support.terminal import printable_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import EventDict


_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


class JsonFormatter(ProcessorFormatter):
    """Takes ``secrets`` out of every value. A traceback is the value of ``exception``."""

    is_json = True

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Begin every line with the time, in UTC."""
        self._secrets = tuple(secrets)
        super().__init__(
            processors=[
                _timestamp,
                add_log_level,
                add_logger_name,
                _fields,
                _request_fields,
                ExceptionRenderer(),
                StackInfoRenderer(),
                ProcessorFormatter.remove_processors_meta,
                self._redacted,
                JSONRenderer(serializer=_one_line),
            ]
        )

    def hide(self, secrets: Iterable[str]) -> None:
        """Take these out of every value, too."""
        self._secrets = longest_first({*self._secrets, *secrets})

    def _redacted(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        texts = [(name, value) for name, value in event.items() if isinstance(value, str)]
        together = "\0".join([value for _, value in texts])
        if redact(together, self._secrets) != together:
            event.update({name: redact(value, self._secrets) for name, value in texts})
        return event


def _timestamp(_logger: object, _method: str, event: EventDict) -> EventDict:
    at = datetime.fromtimestamp(event["_record"].created, UTC)
    return {"timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **event}


def _fields(_logger: object, _method: str, event: EventDict) -> EventDict:
    """What a line says beside its words, by name: ``log.info(…, extra={"fields": function})``, which gives a dict."""
    if fields := getattr(event["_record"], "fields", None):
        event.update(fields())
    return event


def _request_fields(_logger: object, _method: str, event: EventDict) -> EventDict:
    if context := log_context.current.get():
        event["request_id"] = context.request_id
        if context.reference_id:
            event["reference_id"] = context.reference_id
    return event


def _one_line(value: Any, **_options: object) -> str:
    return printable_json(_encode(value))
