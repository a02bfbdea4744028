"""The JSON API for those who place and analyse calls: registering, reading one, reading many."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, NotFound, RequestEntityTooLarge, Unauthorized
from werkzeug.routing import BaseConverter

from webapp.esms.parameters import normalise_identity
from webapp.esms.registrations import InvalidRegistration, read_registration
from webapp.support import metrics
from webapp.support.request_body import read_body
from webapp.support.tokens import is_accepted
from webapp.support.yield_to_others import let_others_run
from webapp.web import openapi
from webapp.web.api_parameters import cursor, read_page
from webapp.web.json_items import BLANKS, json_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from zoneinfo import ZoneInfo

    from flask.blueprints import BlueprintSetupState
    from flask.typing import ResponseReturnValue

    from webapp.calls.rule import Registration
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer

MOST_AT_ONCE = 10_000
REGISTER_LIMIT = 8 * 1024 * 1024
BODY_SECONDS = 30
"""How long a body may take to come."""
_ITEMS_AT_ONCE = 200


def blueprint(writer: Writer, reader: Reader, tokens: Callable[[], tuple[str, ...]], zone: ZoneInfo) -> Blueprint:
    """The routes under ``/api``; ``tokens`` gives those that are accepted. Times without a zone are in ``zone``."""
    api = Blueprint("api", __name__)
    description = openapi.description(MOST_AT_ONCE, REGISTER_LIMIT)

    @api.record_once
    def add_converter(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["identity"] = _Identity

    @api.before_app_request
    def check_token() -> None:
        """Require ``Authorization: Bearer <API_TOKEN>``; the token is taken from nowhere else."""
        if request.path == "/api" or request.path.startswith("/api/"):
            _check_token(tokens())

    @api.post("/api/calls")
    def register() -> ResponseReturnValue:
        registrations = _read_registrations(_read_body(), zone)
        done = writer.register(registrations, datetime.now(UTC))
        metrics.REGISTERED.inc(done.new)
        return {"registered": done.new, "already_known": done.already_known, "changed": done.changed}, 201

    @api.get("/api/calls/<identity:reference_id>")
    def show_call(reference_id: str) -> ResponseReturnValue:
        try:
            call = reader.call(normalise_identity(reference_id))
        except ValueError:
            call = None
        if call is None:
            raise NotFound("This call is unknown: no report of it came, and it was never registered.")
        return Response(b"".join(_json_portions(call)), content_type="application/json")

    @api.get("/api/calls")
    def list_calls() -> ResponseReturnValue:
        found, following = reader.page(*read_page(request.args, zone))
        return {"calls": found, "next": cursor(following) if following else None}

    @api.get("/api/openapi.json")
    def describe() -> ResponseReturnValue:
        return description

    return api


def _check_token(tokens: tuple[str, ...]) -> None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    # RFC 9110 allows several blanks.
    if scheme.lower() != "bearer" or not is_accepted(token.lstrip(" "), tokens):
        raise Unauthorized(
            "Send the header `Authorization: Bearer <API_TOKEN>`.", www_authenticate=WWWAuthenticate("bearer")
        )


def _json_portions(call: dict[str, Any]) -> Iterator[bytes]:
    """The call as JSON. Between portions other requests go on: a call may have a hundred thousand reports."""
    reports = call["reports"]
    yield f"{_compact(call | {'reports': []})[:-2]}".encode()
    for first in range(0, len(reports), _ITEMS_AT_ONCE):
        yield f"{',' if first else ''}{_compact(reports[first : first + _ITEMS_AT_ONCE])[1:-1]}".encode()
        let_others_run()
    yield b"]}\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


class _Identity(BaseConverter):
    """Any ReferenceId; unlike ``path``, also one that begins with a slash."""

    regex = ".+"
    part_isolating = False


def _read_body() -> bytes:
    """The request's body; raises RequestEntityTooLarge, without reading a body that is announced as too long."""
    body, whole = b"", True
    if (request.content_length or 0) <= REGISTER_LIMIT:
        body, whole = read_body(request.environ, REGISTER_LIMIT + 1, BODY_SECONDS)
    if len(body) > REGISTER_LIMIT or (request.content_length or 0) > REGISTER_LIMIT:
        raise RequestEntityTooLarge(f"The body is over {REGISTER_LIMIT // 1024**2} MiB: send several.")
    if not whole:
        raise BadRequest(f"The body did not come whole within {BODY_SECONDS} seconds: send it again.")
    return body


def _read_registrations(content: bytes, zone: ZoneInfo) -> list[Registration]:
    """The registrations in the body. Between portions other requests go on: reading 8 MiB takes a second."""
    several, items = _read_items(content)
    registrations = []
    for place, item in enumerate(items):
        try:
            registrations.append(read_registration(item, zone))
        except InvalidRegistration as bad:
            raise BadRequest(f"{f'calls[{place}].' if several else ''}{bad} Nothing was registered.") from None
        if place % _ITEMS_AT_ONCE == 0:
            let_others_run()
    return registrations


def _read_items(content: bytes) -> tuple[bool, list[Any]]:
    """Whether the body is a list, and its items, or else the only one."""
    items: list[Any] = []
    number = 0
    try:
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        several = text.lstrip(BLANKS).startswith("[")
        for item in json_items(text):
            number += 1
            if number <= MOST_AT_ONCE:
                items.append(item)
            if number % _ITEMS_AT_ONCE == 0:
                let_others_run()
    except (ValueError, RecursionError):
        raise BadRequest("The body must be JSON: one object, or a list of objects, each of at most 64 KiB.") from None
    if number > MOST_AT_ONCE:
        raise BadRequest(f"The list has {number} calls, and at most {MOST_AT_ONCE} are taken at once: send several.")
    return several, items
