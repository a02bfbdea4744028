"""Describes the API as an OpenAPI document, from what the API itself uses: columns, parameters, fields, limits."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

from sqlalchemy import Boolean, Computed, Integer

from webapp.callbacks.views import RETRY_AFTER_SECONDS
from webapp.calls.outcome import OUTCOMES
from webapp.calls.report import EFFECTS, KINDS, Source
from webapp.esms.parameters import IDENTITY_LIMIT, TEXT_LIMIT
from webapp.esms.registrations import REGISTRATION_FIELDS
from webapp.storage.models import calls, status_reports
from webapp.storage.types import Identifier, Moment, Money
from webapp.web.api_parameters import PARAMETERS

if TYPE_CHECKING:
    from sqlalchemy import Column, Table

Schema = dict[str, Any]

_CLOSED = {"outcome": OUTCOMES, "kind": KINDS, "source": get_args(Source), "settled_by": get_args(Source)}
_CLOSED["effect"] = EFFECTS
"""Columns whose values are from a closed set."""
_ID = "066107ee-6ec4-4283-b595-aa74977c65c5"
"""*documented*: of the callback that eSMS publishes."""
_WRITTEN_ID = rf"^\s*[!-~]{{1,{IDENTITY_LIMIT}}}\s*$"
_WRITTEN_TEXT = rf"^\s*[^\x00-\x1f\x7f-\x9f]{{0,{TEXT_LIMIT}}}\s*$"
_BLANK_TEXT = {"type": ["string", "null"], "pattern": r"^\s*$"}
_EXAMPLE = {"reference_id": _ID, "phone": "0901888484", "campaign": "june", "placed_at": "2026-06-01T10:00:00+07:00"}
_NOW = "2026-06-01T03:00:41.083500Z"
_SAID = {
    "reference_id": _ID,
    "call_duration": 0,
    "send_status": 5,
    "sent_result": 0,
    "price": "0.0000",
    "cid": "02871002454",
}
"""What the callback that eSMS publishes says, as the API shows it."""
_REGISTERED = {"registered": 1, "already_known": 0, "changed": 0}
_COUNTS = {
    "registered": "calls that were not registered before",
    "already_known": "calls that were registered before",
    "changed": "of these, calls to which a value is new",
}


def description(most_at_once: int, largest_body: int) -> Schema:
    """The document. ``most_at_once`` calls are registered by one request, with a body of ``largest_body`` bytes."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "esms-calls",
            "version": version("esms-calls"),
            "description": "Registers and reads eSMS voice calls. "
            "Times are ISO 8601 in UTC, prices are strings in VND. "
            'Every error is `{"error": "…"}`. Later versions may add keys to answers.',
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": {
            "/api/calls": {"get": _list_calls(), "post": _register_operation(most_at_once, largest_body)},
            "/api/calls/{reference_id}": {"get": _show_call()},
            "/api/openapi.json": {"get": _describe()},
        },
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "one of the tokens in `API_TOKEN`"}
            },
            "schemas": _schemas(),
            "responses": _errors(),
        },
    }


def _list_calls() -> Schema:
    page = {
        "type": "object",
        "properties": {
            "calls": {"type": "array", "items": _of("Call")},
            "next": {"type": ["string", "null"], "description": "`cursor` of the next page; null on the last one"},
        },
        "required": ["calls", "next"],
    }
    answer = _answer("Calls, newest placed first.", page, {"calls": [_example_call()], "next": None})
    return {
        "operationId": "listCalls",
        "summary": "A page of calls, newest placed first",
        "parameters": [
            {
                "name": name,
                "in": "query",
                "description": _sentence(one.description),
                "allowEmptyValue": True,
                "schema": {"type": "string"} | one.schema,
            }
            for name, one in PARAMETERS.items()
        ],
        "responses": {"200": answer} | _refusals("BadRequest"),
    }


def _register_operation(most_at_once: int, largest_body: int) -> Schema:
    several = {"type": "array", "items": _of("Registration"), "maxItems": most_at_once}
    counts = {name: {"type": "integer", "description": _sentence(words)} for name, words in _COUNTS.items()}
    answer = _answer(
        "The calls are registered.", {"type": "object", "properties": counts, "required": list(_COUNTS)}, _REGISTERED
    )
    return {
        "operationId": "registerCalls",
        "summary": "Register calls, so that a missing callback is noticed",
        "description": "Safe to repeat. Newer values replace older ones; absent, blank and null ones replace nothing. "
        "One wrong item refuses the whole list.",
        "requestBody": {
            "required": True,
            "description": f"At most {largest_body // 1024**2} MiB.",
            "content": {
                "application/json": {
                    "schema": {"anyOf": [_of("Registration"), several]},
                    "examples": {"one": {"value": _EXAMPLE}, "several": {"value": [_EXAMPLE]}},
                }
            },
        },
        "responses": {"201": answer} | _refusals("BadRequest", "TooLarge"),
    }


def _show_call() -> Schema:
    example = _example_call() | {"reports": [_example_report()]}
    return {
        "operationId": "showCall",
        "summary": "One call with its reports",
        "parameters": [
            {
                "name": "reference_id",
                "in": "path",
                "required": True,
                "description": _sentence(_comment(calls.c.reference_id)),
                "schema": {"type": "string", "pattern": _WRITTEN_ID},
                "example": _ID,
            }
        ],
        "responses": {"200": _answer("The call.", _of("CallWithReports"), example)} | _refusals("NotFound"),
    }


def _describe() -> Schema:
    return {
        "operationId": "describe",
        "summary": "This document",
        "responses": {"200": _answer("An OpenAPI document.", {"type": "object"})} | _refusals(),
    }


def _example_call() -> Schema:
    """The call of the example of a registration, after the callback that eSMS publishes."""
    times = ("registered_at", "callback_at", "settled_at", "last_reported_at", "created_at", "updated_at")
    return (
        _empty_row(calls)
        | _SAID
        | dict.fromkeys(times, _NOW)
        | _EXAMPLE
        | {"placed_at": "2026-06-01T03:00:00.000000Z", "registered_fields": "esms_id,phone,placed_at", "esms_id": _ID}
        | {"phone_e164": "+84901888484", "settled_by": "callback", "report_count": 1, "kind": "voice"}
        | {"outcome": "unanswered"}
    )


def _example_report() -> Schema:
    payload = {"ReferenceId": _ID, "CallDuration": "0", "CallStatus": "", "Ivr": "", "Price": "0.0000"}
    payload |= {"SentResult": "0", "CID": "02871002454", "SendStatus": "5"}
    origin = {"id": "019e8122-df5c-7e30-a9c1-0d5b9c1f6a57", "source": "callback", "remote_addr": "203.0.113.10"}
    report = _empty_row(status_reports) | _SAID | origin
    return report | {"received_at": _NOW, "effect": "settled", "payload": payload}


def _empty_row(table: Table) -> Schema:
    """A row of which nothing is known: null, and false and 0 where a column is never null."""
    return {
        column.name: None if column.nullable else False if isinstance(column.type, Boolean) else 0
        for column in table.columns
    }


def _schemas() -> Schema:
    report = _of_table(status_reports)
    report["properties"]["payload"] |= {"type": "object"}
    reports = {"type": "array", "items": _of("Report"), "description": "In the order of `received_at`, then `id`."}
    fields = {name: _field_schema(name, words) for name, words in REGISTRATION_FIELDS.items()}
    return {
        "Call": _of_table(calls),
        "Report": report,
        "CallWithReports": {
            "allOf": [_of("Call"), {"type": "object", "properties": {"reports": reports}, "required": ["reports"]}]
        },
        "Registration": {
            "type": "object",
            "properties": fields,
            "required": ["reference_id"],
            "additionalProperties": False,
        },
        "Error": {
            "type": "object",
            "properties": {"error": {"type": "string", "description": "What is wrong, and what to do."}},
            "required": ["error"],
        },
    }


def _of_table(table: Table) -> Schema:
    """An object with the columns of the table as its keys."""
    return {
        "type": "object",
        "description": f"{table.comment}.",
        "properties": {column.name: _of_column(column) for column in table.columns},
        "required": table.columns.keys(),
    }


def _of_column(column: Column[Any]) -> Schema:
    schema: Schema = {"type": "string"}
    if isinstance(column.type, Boolean):
        schema = {"type": "boolean"}
    elif isinstance(column.type, Integer):
        schema = {"type": "integer"}
    elif isinstance(column.type, Moment):
        schema |= {"format": "date-time"}
    elif isinstance(column.type, Identifier):
        schema |= {"format": "uuid"}
    elif isinstance(column.type, Money):
        schema |= {"pattern": r"^[0-9]{1,10}\.[0-9]{4}$"}
    closed: list[str | None] = list(_CLOSED.get(column.name, ()))
    # A generated column may always be NULL for the database; this one never is.
    if column.nullable and not isinstance(column.server_default, Computed):
        schema["type"] = [schema["type"], "null"]
        closed += [None] if closed else []
    if closed:
        schema["enum"] = closed
    return schema | {"description": f"{_comment(column)}."}


def _comment(column: Column[Any]) -> str:
    return (column.comment or "").replace("NULL", "null")


def _field_schema(name: str, words: str) -> Schema:
    schemas: dict[str, Schema] = {
        "reference_id": {"type": ["string", "integer"], "pattern": _WRITTEN_ID},
        "placed_at": {"anyOf": [{"type": "string", "format": "date-time"}, _BLANK_TEXT]},
        "kind": {"anyOf": [{"enum": list(KINDS)}, _BLANK_TEXT]},
    }
    usual = {"type": ["string", "integer", "null"], "pattern": _WRITTEN_TEXT}
    return schemas.get(name, usual) | {"description": _sentence(words)}


def _errors() -> Schema:
    words = {
        "BadRequest": "A parameter, a field or the body is wrong; `error` names it. Nothing was changed.",
        "Unauthorized": "The header `Authorization: Bearer <API_TOKEN>` is missing or wrong.",
        "NotFound": "The call is unknown: no report of it was received, and it was never registered.",
        "TooLarge": "The body is too large: send several.",
        "InternalError": "A bug; see the server's log.",
        "Unavailable": "The database cannot be used now; try again later.",
    }
    errors = {name: _answer(text, _of("Error")) for name, text in words.items()}
    errors["Unauthorized"]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "example": "Bearer"}}
    seconds = {"schema": {"type": "integer"}, "example": RETRY_AFTER_SECONDS, "description": "Seconds to wait."}
    errors["Unavailable"]["headers"] = {"Retry-After": seconds}
    return errors


_STATUS = {"BadRequest": "400", "NotFound": "404", "TooLarge": "413"}


def _refusals(*names: str) -> Schema:
    """These answers, and those that every route may give."""
    always = {"401": "Unauthorized", "500": "InternalError", "503": "Unavailable"}
    numbers = always | {_STATUS[name]: name for name in names}
    return {number: {"$ref": f"#/components/responses/{numbers[number]}"} for number in sorted(numbers)}


def _answer(words: str, schema: Schema, example: Any = None) -> Schema:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"description": words, "content": {"application/json": content}}


def _of(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
