"""Hides phone numbers in what eSMS and others say, before it is stored: ``phonenumber``, and numbers in other texts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, unquote_plus, unquote_to_bytes

from webapp.calls.phone import e164, numbers_in
from webapp.esms.parameters import BOM, NOT_PHONES, PHONE, Unreadable, json_object, read_json_object, storable_json

if TYPE_CHECKING:
    from webapp.calls.phone import PhoneStorage
    from webapp.calls.report import StatusReport
    from webapp.calls.rule import Registration

_ESCAPED_PLUS = "%2B"


def hide_in_registration(registration: Registration, phones: PhoneStorage) -> Registration:
    """The registration as it is stored."""
    if phones.is_plain or registration.phone is None:
        return registration
    return replace(registration, phone=phones.stored(registration.phone))


def hide_in_report(report: StatusReport, phones: PhoneStorage) -> StatusReport:
    """The report as it is stored, its payload included."""
    if phones.is_plain:
        return report
    return replace(report, phone=phones.stored(report.phone), payload=hide_in_payload(report.payload, phones))


def hide_in_payload(payload: str, phones: PhoneStorage) -> str:
    """The payload of a report, JSON text, as it is stored."""
    said = json.loads(payload)
    hidden = _in_json(said, phones)
    return payload if hidden == said else storable_json(hidden)


def hide_in_request(query: bytes, body: bytes, phones: PhoneStorage) -> tuple[bytes, bytes]:
    """Query and body of a request to the CallbackUrl as they are stored: only what holds a number is changed.

    It reads as before, but for the numbers; what is neither a form nor a JSON object is taken for text.
    """
    if phones.is_plain:
        return query, body
    return _in_form(query, phones), _in_body(body, phones)


def holds_number(payload: str, number: str, phones: PhoneStorage) -> bool:
    """Whether the text of a request that was kept holds this number, however it is written, or its hash."""
    wanted = e164(number)
    hashed = phones.hashed(number)
    if hashed and hashed in payload:
        return True
    return wanted is not None and wanted in numbers_in(payload) | numbers_in(unquote_plus(payload))


def _in_body(body: bytes, phones: PhoneStorage) -> bytes:
    content = body.removeprefix(BOM).strip()
    if content.startswith(b"{"):
        try:
            said = read_json_object(content)
        except (Unreadable, RecursionError):
            return _in_bytes(body, phones)
        hidden = [(name, _in_value(name, value, phones)) for name, value in said]
        return body if hidden == said else json_object(hidden).encode("utf-8", "surrogateescape")
    if b"\n" in content or content.startswith((b"[", b'"', b"<")):
        return _in_bytes(body, phones)
    return _in_form(body, phones)


def _in_form(content: bytes, phones: PhoneStorage) -> bytes:
    return b"&".join(_in_field(field, phones) for field in content.split(b"&"))


def _in_field(field: bytes, phones: PhoneStorage) -> bytes:
    """One ``name=value``, encoded as it was unless it holds a number."""
    raw_name, equals, raw_value = field.partition(b"=")
    name, value = _form_decoded(raw_name), _form_decoded(raw_value)
    hidden_name, hidden_value = phones.in_text(name), _in_value(name, value, phones) or ""
    new_name = raw_name if hidden_name == name else _form_encoded(hidden_name)
    new_value = raw_value if hidden_value == value else _form_encoded(hidden_value)
    return new_name + equals + new_value


def _form_decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "surrogateescape")


def _form_encoded(text: str) -> bytes:
    return quote_plus(text.encode("utf-8", "surrogateescape"), safe="*:").encode("ascii")


def _in_bytes(content: bytes, phones: PhoneStorage) -> bytes:
    text = content.decode("utf-8", "surrogateescape").replace(_ESCAPED_PLUS, "+")
    hidden = phones.in_text(text)
    return content if hidden == text else hidden.encode("utf-8", "surrogateescape")


def _in_value(name: str, value: Any, phones: PhoneStorage) -> Any:
    """The value of a parameter; the phone itself becomes None where nothing of it is stored."""
    known = name.strip().lower()
    if known in NOT_PHONES:
        return value
    if known != PHONE:
        return _in_json(value, phones)
    if isinstance(value, list):
        return [_in_value(name, one, phones) for one in value]
    if isinstance(value, bool | dict) or value is None:
        return _in_json(value, phones)
    return phones.stored(str(value)) if str(value).strip() else value


def _in_json(value: Any, phones: PhoneStorage) -> Any:
    if isinstance(value, dict):
        return {phones.in_text(name): _in_value(name, inner, phones) for name, inner in value.items()}
    if isinstance(value, list):
        return [_in_json(inner, phones) for inner in value]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value)
    hidden = phones.in_text(text)
    return value if hidden == text else hidden
