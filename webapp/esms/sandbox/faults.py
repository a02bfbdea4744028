"""What can go wrong with a look-up: faults, by name, that the sandbox answers instead of the truth."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from webapp.esms.sandbox.answers import failure_fields
from webapp.esms.sandbox.calls import SENT, draw_call, normalised

if TYPE_CHECKING:
    from webapp.esms.sandbox.service import Handler

Answer = dict[str, Any]
Fault = Callable[["Handler", Answer], None]
"""Answers a look-up by the handler, given the true answer."""

_DRIP_SECONDS = 0.2


def _page(status: int, body: bytes = b"<html>Maintenance</html>") -> Fault:
    return lambda handler, _: handler.send(body, status=status, kind="text/html")


def _http_date(*, seconds_ahead: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_ahead), usegmt=True)


def _failure(code: str) -> Fault:
    return lambda handler, _: handler.send_json(failure_fields(code))


def _fields(**fields: object) -> Fault:
    return lambda handler, answer: handler.send_json({"ReferenceId": answer.get("ReferenceId"), **fields})


def _hang(handler: Handler, _: Answer) -> None:
    handler.close_connection = True
    handler.connection.recv(1, socket.MSG_PEEK)  # returns when the client leaves or the sandbox stops


def _drip(opening: bytes) -> Fault:
    def drip(handler: Handler, _: Answer) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + opening)
        while not handler.server.stopping.wait(_DRIP_SECONDS):
            handler.wfile.write(b" ")

    return drip


def _reset(handler: Handler, _: Answer) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _wrong_reference(handler: Handler, answer: Answer) -> None:
    sandbox = handler.server.sandbox
    call = sandbox.calls.get(normalised(answer.get("ReferenceId", "")))
    neighbour = draw_call(sandbox.options, call.number ^ 1 if call else 0)
    handler.send_json(answer | {"ReferenceId": neighbour.reference_id.upper()})


def _no_reference(handler: Handler, answer: Answer) -> None:
    handler.send_json({name: value for name, value in answer.items() if name != "ReferenceId"})


FAULTS: dict[str, Fault] = {
    "http-500": _page(500),
    "http-503": _page(503),
    "http-429": _page(429),
    "later": lambda handler, _: handler.send(b"", status=503, **{"Retry-After": "1"}),
    "later-date": lambda handler, _: handler.send(b"", status=429, **{"Retry-After": _http_date(seconds_ahead=2)}),
    "redirect": lambda handler, _: handler.send(b"", status=302, Location=handler.server.sandbox.api_url),
    "hang": _hang,
    "drip": _drip(b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"),
    "drip-header": _drip(b"X-Slow:"),
    "reset": _reset,
    "garbage": lambda handler, _: handler.send(b'{"CodeResponse": "100", "CallSta'),
    "html": _page(200),
    "huge": lambda handler, answer: handler.send_json(answer | {"Padding": "x" * 2**20}),
    "bom": lambda handler, answer: handler.send(json.dumps(answer).encode("utf-8-sig"), kind="text/html"),
    "wrong-reference": _wrong_reference,
    "no-reference": _no_reference,
    "not-final": _fields(CallDuration=0, CallStatus="", CodeResponse="100", Ivr="", SendStatus=SENT, SentResult=0),
    "nothing-said": _fields(
        CallDuration=None, CallStatus="", CodeResponse="100", Ivr="", ReferenceId=None, SendStatus=None, SentResult=""
    ),
    "unknown-code": _failure("999"),
    **{code: _failure(code) for code in ("99", "101", "104", "105", "140", "143", "160")},
}


def checked_fault(name: str) -> str:
    """The same name; raises ValueError if there is no such fault."""
    if name not in FAULTS:
        raise ValueError(f"There is no fault {name!r}; there are {', '.join(FAULTS)}.")
    return name
