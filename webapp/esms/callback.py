"""Reads a request to the CallbackUrl: query string, form, JSON object or multipart form."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from webapp.esms.parameters import (
    BOM,
    Parameters,
    Unreadable,
    build_report,
    read_identity,
    read_json_object,
    redacted_parameters,
    storable_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from webapp.calls.report import StatusReport

BODY_LIMIT = 64 * 1024
"""Bytes of a callback's body; *assumed*: the published examples have under 300."""
MOST_FIELDS = 1000
"""Fields of a form or a JSON object; *assumed*: the published examples have at most 15."""
_LONGEST_CONTENT_TYPE = 1000


def storable_request(query: bytes, body: bytes, *, whole: bool = True) -> str:
    """Query and body as JSON text, the first 64 KiB of both together; ``stored_request`` gives the bytes back."""
    kept_query = query[:BODY_LIMIT]
    kept_body = body[: BODY_LIMIT - len(kept_query)]
    texts = (part.decode("utf-8", "surrogateescape") for part in (kept_query, kept_body))
    kept: dict[str, Any] = dict(zip(("query", "body"), texts, strict=True))
    if not whole or (kept_query, kept_body) != (query, body):
        kept["cut"] = True
    return storable_json(kept)


def stored_request(payload: str) -> tuple[bytes, bytes]:
    """Query and body out of what ``storable_request`` made; raises ValueError for anything else.

    Raises Unreadable for one that was cut: its last value may be another than was said.
    """
    query, body, whole = kept_request(payload)
    if not whole:
        raise Unreadable("body: was not kept whole")
    return query, body


def kept_request(payload: str) -> tuple[bytes, bytes, bool]:
    """What is kept of query and body, and whether that is all of them; raises ValueError for anything else."""
    try:
        kept = json.loads(payload)
        query, body = (kept[name].encode("utf-8", "surrogateescape") for name in ("query", "body"))
        return query, body, not kept.get("cut")
    except (KeyError, TypeError, AttributeError):
        raise ValueError("is no request that was kept") from None


def parse_callback(
    query: bytes,
    body: bytes,
    content_type: str | None,
    *,
    report_id: UUID,
    received_at: datetime,
    remote_addr: str | None,
    redact: Callable[[str], str] = str,
) -> StatusReport:
    """The report in a request to the CallbackUrl; raises Unreadable. ``redact`` takes secrets out of texts.

    *documented*: a GET with a query string. *assumed*: POST with a form or a JSON object, and mixtures; body first.
    """
    if len(body) > BODY_LIMIT:
        raise Unreadable(f"body: is over {BODY_LIMIT // 1024} KiB")
    try:
        pairs = [*_body_pairs(body, content_type), *_read_form(query, "query")]
        parameters = Parameters(pairs)
        # One look at all of them together: hardly any callback holds a secret.
        if redact(parameters.json) != parameters.json:
            parameters = redacted_parameters(pairs, redact)
        reference_id, unread = read_identity(parameters)
        return build_report(
            parameters,
            reference_id,
            unread,
            id=report_id,
            source="callback",
            received_at=received_at,
            remote_addr=remote_addr,
        )
    except RecursionError:
        raise Unreadable("body: is nested too deeply") from None


def _body_pairs(body: bytes, content_type: str | None) -> list[tuple[str, Any]]:
    content = body.removeprefix(BOM).strip()
    kind = (content_type or "").partition(";")[0].lower()
    if not content:
        return []
    if content.startswith(b"{") or "json" in kind:
        return _limited(read_json_object(content))
    if kind.lstrip().startswith("multipart/"):
        return _read_multipart(body, content_type or "")
    return _read_form(content, "body")


def _limited(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    if len(pairs) > MOST_FIELDS:
        raise Unreadable(f"body: has more than {MOST_FIELDS} fields")
    return pairs


def _read_multipart(body: bytes, content_type: str) -> list[tuple[str, Any]]:
    """The fields of a multipart form, and the contents of its files like fields; raises Unreadable."""
    try:
        if len(content_type) > _LONGEST_CONTENT_TYPE:
            raise ValueError  # noqa: TRY301 - as for every other broken form
        boundary = parse_options_header(content_type)[1]["boundary"].encode("latin-1")
        if body.count(b"\n--" + boundary + b"\r\n") >= MOST_FIELDS:  # The parser takes 15 ms to find that.
            raise RequestEntityTooLarge  # noqa: TRY301 - as the parser does
        parser = MultiPartParser(max_form_memory_size=BODY_LIMIT, max_form_parts=MOST_FIELDS)
        fields, uploads = parser.parse(BytesIO(body), boundary, len(body))
    except RequestEntityTooLarge:
        raise Unreadable(f"body: has more than {MOST_FIELDS} fields") from None
    except Exception:  # noqa: BLE001 - werkzeug fails in many ways on what is no form
        raise Unreadable("body: is a broken multipart form") from None
    contents = ((name, file.read().decode("utf-8", "surrogateescape")) for name, file in uploads.items(multi=True))
    return [(name or "", value) for name, value in (*fields.items(multi=True), *contents)]


def _read_form(content: bytes, part: str) -> list[tuple[str, Any]]:
    text = content.decode("utf-8", "surrogateescape").removeprefix("?")  # seen: so the page prints its example
    try:
        return list(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MOST_FIELDS))
    except ValueError:
        raise Unreadable(f"{part}: has more than {MOST_FIELDS} fields") from None
