"""What can go wrong with a look-up: faults, by name, that the sandbox answers instead of the truth."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Protocol

from webapp.esms.sandbox.codes import failure_fields, message_failure_fields

if TYPE_CHECKING:
    from io import BufferedIOBase

Answer = dict[str, Any]


class LookupConnection(Protocol):
    """The connection on which a look-up is answered."""

    connection: Any
    wfile: BufferedIOBase
    close_connection: bool

    @property
    def api_url(self) -> str:
        """Any address of the sandbox."""

    def send(self, body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        """Answer with a body."""

    def send_json(self, answer: Answer) -> None:
        """Answer 200 with a JSON object."""

    def neighbour_of(self, reference_id: str) -> str:
        """The identity of another call."""

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the sandbox stops."""


Fault = Callable[[LookupConnection, Answer], None]
"""Answers a look-up on the connection, given the true answer."""

_DRIP_SECONDS = 0.2
_SENT = 7


def _page(status: int, body: bytes = b"<html>Maintenance</html>") -> Fault:
    return lambda connection, _: connection.send(body, status=status, kind="text/html")


def _http_date(*, seconds_ahead: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_ahead), usegmt=True)


def _failure(code: str) -> Fault:
    def fail(connection: LookupConnection, answer: Answer) -> None:
        reference_id = answer.get("SMSID")
        connection.send_json(message_failure_fields(code, reference_id) if reference_id else failure_fields(code))

    return fail


def _hang(connection: LookupConnection, _: Answer) -> None:
    connection.close_connection = True
    connection.connection.recv(1, socket.MSG_PEEK)  # returns when the client leaves or the sandbox stops


def _drip(opening: bytes) -> Fault:
    def drip(connection: LookupConnection, _: Answer) -> None:
        connection.close_connection = True
        connection.wfile.write(b"HTTP/1.1 200 OK\r\n" + opening)
        while not connection.wait(_DRIP_SECONDS):
            connection.wfile.write(b" ")

    return drip


def _reset(connection: LookupConnection, _: Answer) -> None:
    connection.close_connection = True
    connection.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _not_final(connection: LookupConnection, answer: Answer) -> None:
    nothing = {"CallDuration": 0, "CallStatus": "", "Ivr": "", "SendFailed": 0, "SendSuccess": 0, "SentResult": 0}
    said = {name: nothing.get(name, value) for name, value in answer.items()}
    connection.send_json(said | {"CodeResponse": "100", "SendStatus": _SENT})


def _nothing_said(connection: LookupConnection, answer: Answer) -> None:
    empty = {"CallStatus", "SentResult", "TotalPrice"}
    connection.send_json({name: "" if name in empty else None for name in answer} | {"CodeResponse": "100"})


def _wrong_reference(connection: LookupConnection, answer: Answer) -> None:
    name = "SMSID" if "SMSID" in answer else "ReferenceId"
    connection.send_json(answer | {name: connection.neighbour_of(answer.get(name, ""))})


def _no_reference(connection: LookupConnection, answer: Answer) -> None:
    connection.send_json({name: value for name, value in answer.items() if name not in {"ReferenceId", "SMSID"}})


FAULTS: dict[str, Fault] = {
    "http-500": _page(500),
    "http-503": _page(503),
    "http-429": _page(429),
    "later": lambda connection, _: connection.send(b"", status=503, **{"Retry-After": "1"}),
    "later-date": lambda connection, _: connection.send(
        b"", status=429, **{"Retry-After": _http_date(seconds_ahead=2)}
    ),
    "redirect": lambda connection, _: connection.send(b"", status=302, Location=connection.api_url),
    "hang": _hang,
    "drip": _drip(b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"),
    "drip-header": _drip(b"X-Slow:"),
    "reset": _reset,
    "garbage": lambda connection, _: connection.send(b'{"CodeResponse": "100", "CallSta'),
    "html": _page(200),
    "huge": lambda connection, answer: connection.send_json(answer | {"Padding": "x" * 2**20}),
    "bom": lambda connection, answer: connection.send(json.dumps(answer).encode("utf-8-sig"), kind="text/html"),
    "wrong-reference": _wrong_reference,
    "no-reference": _no_reference,
    "not-final": _not_final,
    "nothing-said": _nothing_said,
    "unknown-code": _failure("999"),
    **{code: _failure(code) for code in ("99", "101", "104", "105", "140", "143", "160")},
}


ABOUT_A_CALL = frozenset({"bom", "huge", "no-reference", "not-final", "nothing-said", "wrong-reference"})
"""Faults that change a true answer: they need a call that the API knows."""


def checked_fault(name: str) -> str:
    """The same name; raises ValueError if there is no such fault."""
    if name not in FAULTS:
        raise ValueError(f"There is no fault {name!r}; there are {', '.join(FAULTS)}.")
    return name
