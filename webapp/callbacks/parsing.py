"""Makes a status report of a callback request, and says why where that is impossible."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DataError, IntegrityError

from webapp.callbacks.request import CallbackRequest, redacted_decoded
from webapp.calls.report import StatusReport
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.storage.errors import WriteFailed
from webapp.storage.rejected import Rejected
from webapp.storage.types import plain
from webapp.support import log_context
from webapp.support.log_context import LogContext
from webapp.support.token_redaction import NO_TOKENS

if TYPE_CHECKING:
    from webapp.support.token_redaction import TokenRedactor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ParsedCallback:
    """A callback request with its report, or as it is kept where it has none; ``context`` is that of its log lines."""

    request: CallbackRequest
    report: StatusReport | None
    rejected: Rejected | None = None
    context: LogContext | None = field(default_factory=log_context.current.get, compare=False)

    @property
    def reason(self) -> str:
        """Why it is rejected, in words fit for its sender."""
        return self.rejected.reason if self.rejected else ""


def parse(request: CallbackRequest, redact: TokenRedactor) -> ParsedCallback:
    """Read the report in a request. Whatever goes wrong is the reason to reject it: the request must not be lost."""
    try:
        return ParsedCallback(request, report_from_request(request, redact))
    except MemoryError:
        raise  # The request is not the cause.
    except Exception as error:  # noqa: BLE001 - a bug in the parser must not lose the request
        return reject(request, reason_for(error), redact)


def reject(request: CallbackRequest, reason: str, redact: TokenRedactor) -> ParsedCallback:
    """A request that has no report, or whose report cannot be stored."""
    request = redacted_decoded(request, redact)
    return ParsedCallback(request, None, rejected(request, reason))


def report_from_request(stored: CallbackRequest | Rejected, redact: TokenRedactor = NO_TOKENS) -> StatusReport:
    """The report in a request that was stored.

    Raises Unreadable, also for a request that was cut: its last value may be another than eSMS sent. Raises ValueError
    for a payload that holds no request.
    """
    if isinstance(stored, Rejected):
        query, body = esms_callback.stored_request(stored.payload)
    elif stored.problem:
        raise parameters.Unreadable(stored.problem)
    else:
        query, body = stored.query, stored.body
    return esms_callback.parse_callback(
        query,
        body,
        stored.content_type,
        report_id=stored.id,
        received_at=stored.received_at,
        remote_addr=stored.remote_addr,
        redact=redact,
    )


def reason_for(error: Exception) -> str:
    """Why a callback is rejected, in words fit for its sender."""
    if isinstance(error, parameters.Unreadable):
        return str(error)
    if isinstance(error, DataError | IntegrityError | WriteFailed):
        return "The database refuses a value of this report"
    log.error("a callback could not be read or stored; this is a bug", exc_info=error)
    return "This server could not read it"


def rejected(request: CallbackRequest, reason: str) -> Rejected:
    """The request, which holds no callback token in any encoding, as ``rejected_callbacks`` keeps it."""
    content_type = request.content_type
    return Rejected(
        id=request.id,
        received_at=request.received_at,
        remote_addr=request.remote_addr,
        method=request.method,
        content_type=content_type[: parameters.TEXT_LIMIT].replace("\0", "") if content_type else None,
        payload=esms_callback.storable_request(request.query, request.body, whole=request.problem is None),
        reason=reason,
    )


def request_as_json(request: CallbackRequest, redact: TokenRedactor = NO_TOKENS) -> dict[str, Any]:
    """A request for people: as it came, and what it says or why it cannot be read."""
    parsed = parse(request, redact)
    request = redacted_decoded(parsed.request, redact)
    said = {name: plain(value) for name, value in parsed.report.said().items()} if parsed.report else {}
    return {
        "id": str(request.id),
        "received_at": plain(request.received_at),
        "remote_addr": request.remote_addr,
        "method": request.method,
        "content_type": request.content_type,
        "query": request.query.decode("utf-8", "backslashreplace"),
        "body": request.body.decode("utf-8", "backslashreplace"),
        "reference_id": parsed.report.reference_id if parsed.report else None,
        "said": said,
        "reason": parsed.reason or None,
    }
