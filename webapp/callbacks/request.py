"""A request to the CallbackUrl, as it came."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.esms.hide_phones import hide_in_request
from webapp.support.request_body import read_body

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from webapp.calls.phone import PhoneStorage
    from webapp.support.token_redaction import TokenRedactor


@dataclass(frozen=True, slots=True)
class CallbackRequest:
    """A request to the CallbackUrl. ``problem`` is what kept its body from being whole, if anything."""

    id: UUID
    received_at: datetime
    remote_addr: str | None
    method: str
    content_type: str | None
    query: bytes
    body: bytes
    problem: str | None = None


def read_request(environ: WSGIEnvironment, body_seconds: float, redact: TokenRedactor) -> CallbackRequest:
    """Read a request: at most one byte more than a body may have, for at most ``body_seconds``.

    ``redact`` takes out the callback tokens: eSMS may send our CallbackUrl back to us.
    """
    identifier, now = parameters.new_id(), datetime.now(UTC)
    body, whole = read_body(environ, esms_callback.BODY_LIMIT + 1, body_seconds)
    return CallbackRequest(
        id=identifier,
        received_at=now,
        remote_addr=environ.get("REMOTE_ADDR") or None,
        method=environ["REQUEST_METHOD"],
        content_type=redact(environ.get("CONTENT_TYPE") or "") or None,
        query=redact.redact_bytes(environ.get("QUERY_STRING", "").encode("latin-1")),
        body=redact.redact_bytes(body),
        problem=None if whole else "body: ended before it was whole",
    )


def redacted_decoded(request: CallbackRequest, redact: TokenRedactor) -> CallbackRequest:
    """The request without callback tokens, in any encoding. A rejected request is stored without being decoded."""
    content_type = redact.redact_decoded((request.content_type or "").encode("latin-1", "replace")).decode("latin-1")
    return replace(
        request,
        content_type=content_type or None,
        query=redact.redact_decoded(request.query),
        body=redact.redact_decoded(request.body),
    )


def hide_phones(request: CallbackRequest, phones: PhoneStorage) -> CallbackRequest:
    """The request as it is stored, in the database and in the spool."""
    if phones.is_plain:
        return request
    query, body = hide_in_request(request.query, request.body, phones)
    return replace(request, query=query, body=body)
