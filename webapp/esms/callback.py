"""eSMS's dialect, and nowhere else: its parameter names, spellings, codes and quirks, turned into StatusReports.

Knows nothing of Flask and the database. Facts are marked *documented* (the provider's pages), *seen* (in examples on
those pages) or *assumed*.
"""

from __future__ import annotations

import json
import re
from email.message import Message
from email.parser import BytesParser
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from webapp.esms.parameters import _BOM, Parameters, Unreadable, _read_identity, _read_object, _report, storable_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from webapp.calls.report import StatusReport

BODY_LIMIT = 64 * 1024
"""Bytes of a callback's body; *assumed*: the published examples have under 300."""
_SEMICOLONS_AT_MOST = _PARTS_AT_MOST = 1000


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
    try:
        kept = json.loads(payload)
        if kept.get("cut"):
            raise Unreadable("body: was not kept whole")
        return kept["query"].encode("utf-8", "surrogateescape"), kept["body"].encode("utf-8", "surrogateescape")
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
    clean: Callable[[str], str] = str,
) -> StatusReport:
    """The report in a request to the CallbackUrl; raises Unreadable. ``clean`` takes out of texts what none may hold.

    *documented*: a GET with a query string. *assumed*: POST with a form or a JSON object, and mixtures; body first.
    """
    if len(body) > BODY_LIMIT:
        raise Unreadable(f"body: is over {BODY_LIMIT // 1024} KiB")
    try:
        pairs = [*_read_body(body, content_type), *_read_form(query)]
        parameters = Parameters(pairs)
        # Looked for in all at once: hardly any has something to be taken out.
        if clean(parameters.as_json()) != parameters.as_json():
            parameters = Parameters((clean(name), _cleaned(value, clean)) for name, value in pairs)
        reference_id, unread = _read_identity(parameters)
        return _report(
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


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {clean(name): _cleaned(inner, clean) for name, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, clean) for inner in value]
    text = str(value)
    cleaned = clean(text)
    return value if cleaned == text else cleaned


def _read_body(body: bytes, content_type: str | None) -> list[tuple[str, Any]]:
    content = body.removeprefix(_BOM).strip()
    kind = re.sub(r"[^ -~]", " ", content_type or "").strip().lower()
    if not content:
        return []
    if content.startswith(b"{") or re.match(r"[^;]*json", kind):
        return _read_object(content)
    if kind.startswith("multipart/"):
        return _read_multipart(body, content_type or "")
    return _read_form(content)


def _read_multipart(body: bytes, content_type: str) -> list[tuple[str, Any]]:
    """The parts' names and contents; raises Unreadable. Parts within a part stay its content: no form has them."""
    # The time over a header grows with the square of its semicolons.
    if body.count(b";") > _SEMICOLONS_AT_MOST:
        raise Unreadable("body: is a multipart form with too many semicolons")
    try:
        parts = _parts(body, content_type)
        if len(parts) <= _PARTS_AT_MOST:
            return [_read_part(part) for part in parts]
    except Exception:  # noqa: BLE001 - the parser fails in many ways on headers that no form has
        raise Unreadable("body: is a broken multipart form") from None
    raise Unreadable("body: is a multipart form with too many parts")


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """What stands between the boundaries; raises ValueError if there are none."""
    form = Message()
    form["Content-Type"] = content_type
    boundary = (form.get_boundary() or "").encode("latin-1")
    delimiter = rb"(?m:^|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r?\n|\Z)"
    _, *rest = re.split(delimiter, body)
    parts = [part for _, part in takewhile(lambda found: not found[0], zip(rest[::2], rest[1::2], strict=True))]
    if not (boundary and parts):
        raise ValueError
    return parts


def _read_part(part: bytes) -> tuple[str, str]:
    message = BytesParser().parsebytes(part, headersonly=True)
    content: Any = message.get_payload(decode=True)
    return str(message.get_param("name", "", "content-disposition")), content.decode("utf-8", "surrogateescape")


def _read_form(content: bytes) -> list[tuple[str, Any]]:
    text = content.decode("utf-8", "surrogateescape").removeprefix("?")  # seen: so the page prints its example
    return list(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))
