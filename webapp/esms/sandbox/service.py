"""The sandbox as an HTTP service: it takes calls, answers look-ups, and has the callbacks sent.

Not simulated: SendDate, MaxRetry and WaitRetry of a placing request, and its voice OTP; campaigns have both.
"""

from __future__ import annotations

import json
import random
import socket
import socketserver
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from webapp.esms.sandbox.answers import lookup_fields, message_lookup_fields
from webapp.esms.sandbox.callbacks import CallbackQueue, checked_callback_url
from webapp.esms.sandbox.calls import (
    SEND_STATUS_DONE,
    SEND_STATUS_SENT,
    SEND_STATUS_WAITING,
    call_as_of,
    draw_call,
    normalised,
)
from webapp.esms.sandbox.codes import failure_fields, message_failure_fields
from webapp.esms.sandbox.faults import ABOUT_A_CALL, FAULTS, checked_fault
from webapp.esms.sandbox.forms import callbacks_of, filled, other_channel_message
from webapp.esms.sandbox.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from webapp.esms.sandbox.calls import PlacedCall

SERVICE_PATH = "/MainService.svc/json"
MESSAGE_PATH = "/rest" + SERVICE_PATH
"""The message API, which eSMS has on another host."""
Kind = Literal["voice", "otp"]
HONEST = "100"
"""The code of a look-up that met no fault."""
_BUSY = "99"
_LONGEST_REQUEST_ID = 50
_SHARE_OF_STRINGS = 0.1
"""GetSendStatus answers that have strings for numbers (*assumed*)."""


class Lookup(NamedTuple):
    """A GetSendStatus request: its arrival (monotonic seconds), its call, eSMS's code or the fault's name, the API."""

    at: float
    reference_id: str
    code: str
    api: Kind = "voice"


class Sandbox:
    """eSMS, on a port of this machine, for as long as the ``with`` block lasts.

    All keys are normalised reference ids. ``calls`` is the truth; ``faults`` can be changed at any time and says which
    of ``FAULTS`` every look-up of a call meets. ``lookups`` has all that arrived, in their order; ``overlaps`` the call
    of each that arrived while another look-up of the same call was not yet answered. ``other_channels`` has the SMSIDs
    of the messages that are no calls.
    """

    def __init__(self, options: Options | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on the port (0: any that is free); raises OSError if that is not possible."""
        self.options = options or Options()
        self.calls: dict[str, PlacedCall] = {}
        self.faults: dict[str, str] = {}
        self.lookups: list[Lookup] = []
        self.overlaps: list[str] = []
        self.other_channels: list[str] = []
        self.callbacks = CallbackQueue(self.options)
        self._kept = 0
        self._begins: dict[str, float] = {}
        self._request_ids: set[str] = set()
        self._was_busy: set[str] = set()
        self._lookup_counts: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._last_second: deque[float] = deque()
        self._fault_of_all: str | None = None
        self._lock = threading.Lock()
        self._server = _Server((host, port), self)
        address = f"http://{host}:{self._server.server_address[1]}"
        self.api_url, self.message_api_url = address + SERVICE_PATH, address + MESSAGE_PATH

    def __enter__(self) -> Self:
        self._server.start()
        self.callbacks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self.callbacks.stop()

    def place(self, count: int, *, callback_url: str = "") -> list[PlacedCall]:
        """Place a campaign, whose callbacks go to that http(s) URL, if any: the truth about its calls."""
        checked_callback_url(callback_url)
        gap = 1 / self.options.pace if self.options.pace else 0.0
        return [self._place(callback_url, begins_in=index * gap) for index in range(count)]

    def add(self, calls: Iterable[PlacedCall]) -> None:
        """Know these calls, too, as placed at their ``placed_at``; no callback of them is sent."""
        now, here = datetime.now(UTC), time.monotonic()
        with self._lock:
            for call in calls:
                name = normalised(call.reference_id)
                self.calls[name], self._begins[name] = call, here - (now - call.placed_at).total_seconds()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every callback was delivered or given up; False if ``timeout`` seconds were not enough."""
        return self.callbacks.wait(timeout)

    def answer_all_with(self, fault: str | None) -> None:
        """From now on let every look-up meet this one of ``FAULTS``, until None is given."""
        self._fault_of_all = fault and checked_fault(fault)

    def placing_answer(self, query: dict[str, str]) -> dict[str, Any]:
        """Place a call as MakeCallRecord_V2 and MakeCallTemplate_V2 do; ``query`` has its names in lower case."""
        request_id, callback_url = query.get("requestid", ""), query.get("callbackurl", "")
        if not self._authorised(query):
            return failure_fields("101")
        if query.get("templateid", "missing") == "missing":
            return {"CodeResult": "104", "ErrorMessage": "Template not found"}
        try:
            checked_callback_url(callback_url)
        except ValueError:
            return failure_fields("131")
        if len(request_id) > _LONGEST_REQUEST_ID:
            return failure_fields("131")
        if request_id and self._is_duplicate(request_id):
            return failure_fields("124")
        call = self._place(callback_url, phone=query.get("phone", ""), request_id=request_id)
        return {"CodeResult": "100", "SMSID": call.smsid}

    def lookup_answer(self, query: dict[str, str], api: Kind) -> tuple[str, dict[str, Any]]:
        """Answer GetSendStatus, after the latency: ``HONEST`` or a name of ``FAULTS``, and the true answer."""
        asked_for = query.get("refid" if api == "otp" else "referenceid", "").strip()
        reference_id = normalised(asked_for)
        with self._lock:
            now = time.monotonic()
            self._lookup_counts[reference_id] += 1
            seed = f"{self.options.seed}:{reference_id}:{self._lookup_counts[reference_id]}"
            draw = random.Random(seed)  # noqa: S311 (to be repeatable, not secret)
            known = self._is_known(asked_for, api)
            code = self._code(reference_id, query, now, draw, known=known)
            answer = self._true_answer(reference_id, now, draw) if known else _unknown_call(asked_for, api)
            self.lookups.append(Lookup(now, reference_id, code, api))
            if self._in_flight[reference_id]:
                self.overlaps.append(reference_id)
            self._in_flight[reference_id] += 1
        self._server.stopping.wait(self.options.latency)
        with self._lock:
            self._in_flight[reference_id] -= 1
        return code, answer

    def ends_connection(self) -> bool:
        """Whether a kept connection ends now, at the next look-up on it."""
        with self._lock:
            self._kept += 1
            draw = random.Random(f"{self.options.seed}:kept:{self._kept}")  # noqa: S311
            return draw.random() < self.options.closing

    def _place(self, callback_url: str, *, phone: str = "", request_id: str = "", begins_in: float = 0.0) -> PlacedCall:
        with self._lock:
            call = draw_call(self.options, len(self.calls), phone=phone, request_id=request_id)
            begins = time.monotonic() + begins_in
            self._begins[normalised(call.reference_id)] = begins
            self.calls[normalised(call.reference_id)] = call
        if callback_url:
            self._plan_callbacks(call, callback_url, begins)
        return call

    def _plan_callbacks(self, call: PlacedCall, callback_url: str, begins: float) -> None:
        due = {
            SEND_STATUS_WAITING: begins,
            SEND_STATUS_SENT: begins + call.ring_seconds,
            SEND_STATUS_DONE: begins + 2 * call.ring_seconds,
        }
        planned = [
            (
                due[said.due_at] + self.options.late_by * said.late,
                filled(callback_url, said.parameters, slash=call.slash, complete=call.kind == "otp"),
            )
            for said in callbacks_of(call)
        ]
        self.callbacks.add(planned)
        if call.other_channel is not None:
            message = other_channel_message(call)
            self.other_channels.append(normalised(message.parameters["SMSID"]))
            self.callbacks.add([(due[message.due_at], filled(callback_url, message.parameters, complete=True))])

    def _is_duplicate(self, request_id: str) -> bool:
        """*documented*: a RequestId blocks for 24 hours; here for as long as the sandbox runs."""
        with self._lock:
            known = request_id in self._request_ids
            self._request_ids.add(request_id)
            return known

    def _authorised(self, query: dict[str, str]) -> bool:
        wanted = (self.options.api_key, self.options.secret_key)
        given = (query.get("apikey", ""), query.get("secretkey", ""))
        return all(given) and all(key in {"", shown} for key, shown in zip(wanted, given, strict=True))

    def _is_known(self, asked_for: str, api: Kind) -> bool:
        """Whether this API knows a call by that id. *assumed*: most ids are matched without case."""
        call = self.calls.get(normalised(asked_for))
        return call is not None and call.kind == api and (not call.exact or asked_for == call.reference_id)

    def _code(self, reference_id: str, query: dict[str, str], now: float, draw: random.Random, *, known: bool) -> str:
        if self._fault_of_all:
            return self._fault_of_all
        if not self._authorised(query):
            return "101"
        if self._over_limit(now):
            return "160"
        if reference_id in self.faults:
            return self.faults[reference_id]
        if draw.random() < self.options.error_rate:
            fault = draw.choice(self.options.faults or tuple(FAULTS))
            return fault if known or fault not in ABOUT_A_CALL else "105"
        return self._true_code(reference_id) if known else "105"

    def _true_code(self, reference_id: str) -> str:
        if not self.calls[reference_id].busy or reference_id in self._was_busy:
            return HONEST
        self._was_busy.add(reference_id)
        return _BUSY

    def _over_limit(self, now: float) -> bool:
        while self._last_second and self._last_second[0] <= now - 1:
            self._last_second.popleft()
        over = 0 < self.options.rate_limit <= len(self._last_second)
        if not over:
            self._last_second.append(now)
        return over

    def _true_answer(self, reference_id: str, now: float, draw: random.Random) -> dict[str, Any]:
        call = self.calls[reference_id]
        age = now - self._begins[reference_id]
        reached = (
            SEND_STATUS_WAITING
            if age < call.ring_seconds
            else SEND_STATUS_SENT
            if age < 2 * call.ring_seconds
            else SEND_STATUS_DONE
        )
        fields = message_lookup_fields if call.kind == "otp" else lookup_fields
        answer = fields(call_as_of(call, reached))
        as_strings = draw.random() < _SHARE_OF_STRINGS
        return {name: str(value) for name, value in answer.items()} if as_strings else answer


def _unknown_call(asked_for: str, api: Kind) -> dict[str, Any]:
    return message_failure_fields("105", asked_for) if api == "otp" else failure_fields("105")


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _has_answered = False

    def do_GET(self) -> None:
        """Answer a request by its path."""
        url, sandbox = urlsplit(self.path), self.server.sandbox
        # names without case, since the placing pages themselves have both RequestID and RequestId
        query = {name.lower(): value for name, value in parse_qsl(url.query, keep_blank_values=True)}
        api: Kind = "otp" if url.path.startswith(MESSAGE_PATH) else "voice"
        match url.path.removeprefix(MESSAGE_PATH).removeprefix(SERVICE_PATH), api:
            case (("/MakeCallRecord_V2" | "/MakeCallTemplate_V2"), "voice"):
                self.send_json(sandbox.placing_answer(query))
            case "/GetSendStatus", _:
                self._answer_lookup(query, api)
            case _:
                self.send(b"<h1>Endpoint not found</h1>", status=404, kind="text/html")

    def _answer_lookup(self, query: dict[str, str], api: Kind) -> None:
        kept, self._has_answered = self._has_answered, True
        if kept and self.server.sandbox.ends_connection():
            self.close_connection = True
            return
        code, answer = self.server.sandbox.lookup_answer(query, api)
        respond = Handler.send_json if code == HONEST else FAULTS[code]
        respond(self, answer)

    @property
    def api_url(self) -> str:
        """The address of the voice API."""
        return self.server.sandbox.api_url

    def neighbour_of(self, reference_id: str) -> str:
        """The identity of another call."""
        sandbox = self.server.sandbox
        call = sandbox.calls.get(normalised(reference_id))
        return draw_call(sandbox.options, call.number ^ 1 if call else 0).reference_id.upper()

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the sandbox stops."""
        return self.server.stopping.wait(seconds)

    def send_json(self, answer: dict[str, Any]) -> None:
        """Answer 200 with a JSON object."""
        self.send(json.dumps(answer).encode())

    def send(self, body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        """Answer with a body."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: request lines hold keys."""


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection; ``stop`` ends them all, whatever they are doing."""

    allow_reuse_address = True
    request_queue_size = 128
    sandbox: Sandbox

    def __init__(self, address: tuple[str, int], sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.stopping = threading.Event()
        self._connections: set[Any] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        super().__init__(address, Handler)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        self.close_request(request)  # without an orderly end before it, which would spoil the fault "reset"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may leave at any time
            super().handle_error(request, client_address)
