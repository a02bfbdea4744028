"""A stand-in for eSMS: takes calls, sends their callbacks and answers look-ups, with whatever trouble is asked for.

Stands alone on purpose: a second reading of the protocol, so that the program is not tested against its own.
Not simulated: SendDate, redials (MaxRetry, WaitRetry) and voice OTP.
"""

from __future__ import annotations

import csv
import heapq
import itertools
import json
import logging
import random
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID

import click
import requests
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

SERVICE_PATH = "/MainService.svc/json"
WAITING, SENT, DONE = 2, 7, 5
"""SendStatus, in the order in which a call goes through it: *documented*."""
MOST_REQUESTS = 6
"""How often a callback is sent until it is answered 200: *documented*, five repeats at the most."""
LONGEST_REQUEST_ID = 50
CALLBACK_SPELLING = {"ANSWERED": "ANSWERED", "NOANSWERED": "NO ANSWER", None: ""}
"""Outcomes in callbacks: *documented*; None is the published example of a failed call."""
LOOKUP_SPELLING = {"ANSWERED": "ANSWERED", "NOANSWERED": "NOANSWERED", None: "NOANSWERED"}
"""Outcomes in GetSendStatus: *documented*; a failed call has the same one there as a call that nobody answered."""
ERRORS = {
    "99": "Number blocked",
    "101": "Authorize Failed",
    "104": "Call not found",
    "105": "Check the SMSID or try later",
    "124": "RequestId was used within 24 hours",
    "131": "Invalid parameter",
    "140": "IP not whitelisted",
    "143": "Account not active or locked",
    "160": "Over the TPS limit",
    "999": "Unexpected error",
}
"""By code. 131 and 999 are *assumed*, the other codes *documented*; so are 101's words, all others are *assumed*."""
IDENTITY_FORMS: dict[Callable[[str], str], int] = {
    str.lower: 94,
    str.upper: 2,
    lambda guid: guid + "87": 2,
    lambda guid: guid.replace("-", ""): 1,
    lambda guid: guid[:13] + guid[14:] + " ": 1,
}
"""What becomes of a GUID, in how many percent. The forms are *seen*; these and all frequencies below are *assumed*."""
OUTCOMES = {"ANSWERED": 70, "NOANSWERED": 20, None: 10}
KEYS = (None, None, "1", "1", "2", "0", "*", "#", "12")
CIDS = ("02871002454", "02871002455", "02471002454")
PRICE_PER_SECOND = Decimal("7.5")
SHARE_OF_STRINGS = 0.1
"""GetSendStatus answers that have strings for numbers."""
DRIP_SECONDS = 0.2
HONEST = "100"
"""The code of a look-up that met no fault."""

Kind = dict[str, Any]
SHARE: Kind = {"type": click.FloatRange(0, 1), "metavar": "SHARE"}
PAUSE: Kind = {"type": click.FloatRange(0), "metavar": "SECONDS"}
TIMEOUT: Kind = {"type": click.FloatRange(0, min_open=True), "metavar": "SECONDS"}
NUMBER: Kind = {"type": click.IntRange(0), "metavar": "N"}
AT_LEAST_ONE: Kind = {"type": click.IntRange(1), "metavar": "N"}


def _knob(default: float, text: str, kind: Kind) -> Any:
    return field(default=default, metadata={"help": text, **kind})


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the sandbox behaves; the command's options are made from these."""

    seed: int = _knob(0, "The same seed gives the same calls with the same fates.", NUMBER)
    lost: float = _knob(0.0, "Calls whose final callback is never sent; half of them send none at all.", SHARE)
    doubled: float = _knob(0.0, "Calls, of those not lost, whose final callback is sent twice.", SHARE)
    late: float = _knob(0.0, "Calls, of those not lost, whose final callback comes before a progress one.", SHARE)
    late_by: float = _knob(1.0, "How long after the final callback that progress one comes.", PAUSE)
    ring: float = _knob(0.0, "Longest time from one SendStatus to the next; drawn for each call.", PAUSE)
    pace: int = _knob(0, "Calls of a campaign that begin each second; 0: all at once.", NUMBER)
    retry_wait: float = _knob(1.0, "Pause before a callback that was not answered 200 is sent again.", PAUSE)
    callback_timeout: float = _knob(10.0, "Longest wait for the answer to a callback.", TIMEOUT)
    senders: int = _knob(16, "Callbacks in flight at a time.", AT_LEAST_ONE)
    latency: float = _knob(0.0, "Pause before each GetSendStatus answer.", PAUSE)
    error_rate: float = _knob(0.0, "GetSendStatus answers that are faults.", SHARE)
    rate_limit: int = _knob(0, "GetSendStatus answers a second, code 160 above it; 0: no limit.", NUMBER)
    faults: tuple[str, ...] = ()
    """What ``error_rate`` draws from: names of ``FAULTS``; empty: all of them."""
    api_key: str = ""
    secret_key: str = ""
    """The keys that are accepted; empty: any that are not empty."""

    def __post_init__(self) -> None:
        for fault in self.faults:
            checked_fault(fault)


@dataclass(frozen=True, kw_only=True)
class PlacedCall:
    """The truth about one call: what eSMS says once it is over, and what its callbacks suffer.

    It follows from the seed and ``number`` alone, but for ``placed_at`` and what the one who placed it gave.
    ``smsid`` is the identity as the placing answer has it: a trailing space may follow. ``call_status`` is what the
    final callback says, in GetSendStatus's spelling, None for a failed call; GetSendStatus says ``lookup_status``.
    ``call_duration`` and ``ring_seconds`` (from one SendStatus to the next) are in seconds, ``price`` is in VND.
    Of a ``lost`` call no final callback is sent; if it is also ``silent``, none at all.
    """

    number: int
    reference_id: str
    smsid: str
    phone: str
    request_id: str | None
    placed_at: datetime = field(compare=False)
    call_status: str | None
    lookup_status: str
    call_duration: int
    ivr: str | None
    price: Decimal
    cid: str
    sent_result: int
    send_status: int = DONE
    ring_seconds: float
    lost: bool
    silent: bool
    doubled: bool
    late: bool


def draw_call(options: Options, number: int, *, phone: str = "", request_id: str = "") -> PlacedCall:
    """Call ``number`` of a campaign. Every draw is always made, so that one option changes nothing but its own."""
    draw = random.Random(f"{options.seed}:{number}")  # noqa: S311 (to be repeatable, not secret)
    guid = str(UUID(int=draw.getrandbits(128), version=4))
    (form,) = draw.choices(list(IDENTITY_FORMS), list(IDENTITY_FORMS.values()))
    (outcome,) = draw.choices(list(OUTCOMES), list(OUTCOMES.values()))
    seconds, key, cid, digits = draw.randint(1, 90), draw.choice(KEYS), draw.choice(CIDS), draw.randrange(10**8)
    ring, lost, silent, doubled, late = (draw.random() for _ in range(5))
    answered, is_lost = outcome == "ANSWERED", lost < options.lost
    return PlacedCall(
        number=number,
        reference_id=form(guid).strip(),
        smsid=form(guid),
        phone=phone or f"09{digits:08}",
        request_id=request_id or None,
        placed_at=datetime.now(UTC),
        call_status=outcome,
        lookup_status=LOOKUP_SPELLING[outcome],
        call_duration=seconds if answered else 0,
        ivr=key if answered else None,
        price=PRICE_PER_SECOND * seconds if answered else Decimal(0),
        cid=cid,
        sent_result=int(answered),
        ring_seconds=ring * options.ring,
        lost=is_lost,
        silent=is_lost and silent < 1 / 2,
        doubled=not is_lost and doubled < options.doubled,
        late=not is_lost and late < options.late,
    )


# What is said of a call


def as_of(call: PlacedCall, send_status: int) -> PlacedCall:
    """The call as it is told at that SendStatus; before the end nothing more is known of it (*assumed*)."""
    if send_status == DONE:
        return call
    nothing = replace(call, call_status=None, lookup_status="", call_duration=0, ivr=None, price=Decimal(0))
    return replace(nothing, sent_result=0, send_status=send_status)


def callback_fields(call: PlacedCall) -> dict[str, str]:
    """A callback's parameters, named and ordered as in the published example."""
    return {
        "ReferenceId": call.reference_id,
        "CallDuration": str(call.call_duration),
        "CallStatus": CALLBACK_SPELLING[call.call_status],
        "Ivr": call.ivr or "",
        "Price": f"{call.price:.4f}",
        "SentResult": str(call.sent_result),
        "CID": call.cid,
        "SendStatus": str(call.send_status),
    }


def lookup_fields(call: PlacedCall) -> dict[str, Any]:
    """The published success form of GetSendStatus, with the identity in upper case as *seen* there."""
    return {
        "CallDuration": call.call_duration,
        "CallStatus": call.lookup_status,
        "CodeResponse": "100",
        "Ivr": call.ivr or "",
        "ReferenceId": call.reference_id.upper(),
        "SendStatus": call.send_status,
        "SentResult": call.sent_result,
    }


def failure_fields(code: str) -> dict[str, Any]:
    """The published failure form, which has another key for the code; placing answers have it too (*assumed*)."""
    return {"CodeResult": code, "CountRegenerate": 0, "ErrorMessage": ERRORS[code]}


def filled(callback_url: str, call: PlacedCall) -> str:
    """The CallbackUrl with its parameters filled in their place; where it names none of them, all are appended."""
    url, said = urlsplit(callback_url), {name: quote(value, safe="") for name, value in callback_fields(call).items()}
    given = [pair.partition("=") for pair in url.query.split("&") if pair]
    if not any(name in said for name, _, _ in given):
        given += [(name, "=", "") for name in said]
    query = "&".join(f"{name}={said[name]}" if name in said else name + equals + value for name, equals, value in given)
    return url._replace(query=query, fragment="").geturl()


def callback_order(call: PlacedCall) -> tuple[int, ...]:
    """The SendStatus of each callback of the call, in the order of their sending."""
    if call.lost:
        return () if call.silent else (WAITING, SENT)
    order = (WAITING, DONE, SENT) if call.late else (WAITING, SENT, DONE)
    return (*order, DONE) if call.doubled else order


def checked_callback_url(callback_url: str) -> str:
    """The same URL. ValueError, which does not show it since it holds a token, where no callback can be sent to it."""
    url = urlsplit(callback_url)
    if callback_url and (url.scheme not in {"http", "https"} or not url.hostname):
        raise ValueError("The callback URL must begin with http:// or https:// and a host name.")
    return callback_url


def checked_fault(fault: str) -> str:
    """The same name; ValueError where there is no such fault."""
    if fault not in FAULTS:
        raise ValueError(f"There is no fault {fault!r}; there are {', '.join(FAULTS)}.")
    return fault


def normalised(reference_id: str) -> str:
    """An identity as it is compared: without surrounding space, in lower case."""
    return reference_id.strip().lower()


class Lookup(NamedTuple):
    """A GetSendStatus request: its arrival (monotonic seconds), its call, and eSMS's code or the fault's name."""

    at: float
    reference_id: str
    code: str


class Sandbox:
    """eSMS, on a port of this machine, for as long as the ``with`` block lasts.

    All keys are normalised reference ids. ``calls`` is the truth; ``faults`` can be changed at any time and says which
    of ``FAULTS`` every look-up of a call meets. ``lookups`` has all that came, in the order of arrival; ``overlaps``
    the call of each that came while another look-up of the same call was not yet answered.
    """

    def __init__(self, options: Options | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Take the port (0: any that is free). OSError where it cannot be had."""
        self.options = options or Options()
        self.calls: dict[str, PlacedCall] = {}
        self.faults: dict[str, str] = {}
        self.lookups: list[Lookup] = []
        self.overlaps: list[str] = []
        self.callbacks = Callbacks(self.options)
        self._begins: dict[str, float] = {}
        self._request_ids: set[str] = set()
        self._asked: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._within_limit: deque[float] = deque()
        self._fault_of_all: str | None = None
        self._lock = threading.Lock()
        self._server = _Server((host, port), self)
        self.api_url = f"http://{host}:{self._server.server_address[1]}{SERVICE_PATH}"

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

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every callback was delivered or given up; False where ``timeout`` seconds were not enough."""
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
        if len(request_id) > LONGEST_REQUEST_ID:
            return failure_fields("131")
        if request_id and self._is_duplicate(request_id):
            return failure_fields("124")
        call = self._place(callback_url, phone=query.get("phone", ""), request_id=request_id)
        return {"CodeResult": "100", "SMSID": call.smsid}

    def lookup_answer(self, query: dict[str, str]) -> tuple[str, dict[str, Any]]:
        """Answer GetSendStatus, after the latency: ``HONEST`` or a name of ``FAULTS``, and the true answer."""
        reference_id = normalised(query.get("referenceid", ""))
        with self._lock:
            now = time.monotonic()
            self._asked[reference_id] += 1
            seed = f"{self.options.seed}:{reference_id}:{self._asked[reference_id]}"
            draw = random.Random(seed)  # noqa: S311 (to be repeatable, not secret)
            code, answer = self._code(reference_id, query, now, draw), self._true_answer(reference_id, now, draw)
            self.lookups.append(Lookup(now, reference_id, code))
            if self._in_flight[reference_id]:
                self.overlaps.append(reference_id)
            self._in_flight[reference_id] += 1
        self._server.stopping.wait(self.options.latency)
        with self._lock:
            self._in_flight[reference_id] -= 1
        return code, answer

    def _place(self, callback_url: str, *, phone: str = "", request_id: str = "", begins_in: float = 0.0) -> PlacedCall:
        with self._lock:
            call = draw_call(self.options, len(self.calls), phone=phone, request_id=request_id)
            begins = time.monotonic() + begins_in
            self._begins[normalised(call.reference_id)] = begins
            self.calls[normalised(call.reference_id)] = call
        if callback_url:
            due = {WAITING: begins, SENT: begins + call.ring_seconds, DONE: begins + 2 * call.ring_seconds}
            if call.late:
                due[SENT] = due[DONE] + self.options.late_by
            order = callback_order(call)
            self.callbacks.add([(due[status], filled(callback_url, as_of(call, status))) for status in order])
        return call

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

    def _code(self, reference_id: str, query: dict[str, str], now: float, draw: random.Random) -> str:
        if self._fault_of_all:
            return self._fault_of_all
        if not self._authorised(query):
            return "101"
        if self._over_limit(now):
            return "160"
        if reference_id in self.faults:
            return self.faults[reference_id]
        if draw.random() < self.options.error_rate:
            return draw.choice(self.options.faults or tuple(FAULTS))
        return HONEST if reference_id in self.calls else "105"

    def _over_limit(self, now: float) -> bool:
        while self._within_limit and self._within_limit[0] <= now - 1:
            self._within_limit.popleft()
        over = 0 < self.options.rate_limit <= len(self._within_limit)
        if not over:
            self._within_limit.append(now)
        return over

    def _true_answer(self, reference_id: str, now: float, draw: random.Random) -> dict[str, Any]:
        call = self.calls.get(reference_id)
        if call is None:
            return failure_fields("105")
        age = now - self._begins[reference_id]
        reached = WAITING if age < call.ring_seconds else SENT if age < 2 * call.ring_seconds else DONE
        answer = lookup_fields(as_of(call, reached))
        as_strings = draw.random() < SHARE_OF_STRINGS
        return {name: str(value) for name, value in answer.items()} if as_strings else answer


@dataclass(order=True)
class _Callback:
    """One to be sent; those that follow it in its call wait until it was tried once."""

    due: float
    turn: int
    url: str = field(compare=False)
    followers: Sequence[tuple[float, str]] = field(compare=False)
    attempt: int = field(compare=False, default=1)


class Callbacks:
    """The callbacks that wait for their time, and the threads that send them.

    ``refusals`` counts each HTTP status other than 200, and each kind of error, that a callback met.
    """

    def __init__(self, options: Options) -> None:
        """Send nothing before ``start``."""
        self.planned = self.delivered = self.given_up = 0
        self.refusals: Counter[str] = Counter()
        self._options = options
        self._queue: list[_Callback] = []
        self._turns = itertools.count()
        self._stopped = False
        lock = threading.Lock()
        self._changed, self._idle = threading.Condition(lock), threading.Condition(lock)
        self._threads = [threading.Thread(target=self._send_all) for _ in range(options.senders)]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; what is being sent is waited for, ``callback_timeout`` at the longest."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def add(self, callbacks: Sequence[tuple[float, str]]) -> None:
        """Take the callbacks of one call, in their order: when (monotonic seconds) and to which URL they go."""
        with self._changed:
            self.planned += len(callbacks)
            self._queue_first(callbacks)

    def wait(self, timeout: float | None) -> bool:
        """Wait until every callback was delivered or given up; False where ``timeout`` seconds were not enough."""
        with self._idle:
            return self._idle.wait_for(lambda: self.finished == self.planned, timeout)

    @property
    def finished(self) -> int:
        """How many were delivered or given up."""
        return self.delivered + self.given_up

    def _queue_first(self, callbacks: Sequence[tuple[float, str]]) -> None:
        if callbacks:
            (due, url), *followers = callbacks
            self._push(_Callback(due, next(self._turns), url, followers))

    def _push(self, callback: _Callback) -> None:
        heapq.heappush(self._queue, callback)
        self._changed.notify()

    def _send_all(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while callback := self._next():
                self._note(callback, self._refusal(session, callback.url))

    def _next(self) -> _Callback | None:
        """Wait for the next callback that is due; None once all is to stop."""
        with self._changed:
            while not self._stopped:
                pause = self._queue[0].due - time.monotonic() if self._queue else None
                if pause is not None and pause <= 0:
                    self._changed.notify()  # another thread has to wait for the one after it
                    return heapq.heappop(self._queue)
                self._changed.wait(pause)
        return None

    def _refusal(self, session: requests.Session, url: str) -> str | None:
        """Send: None if it was received, else what came instead; never an error's own words, which hold the URL."""
        try:
            answer = session.get(url, timeout=self._options.callback_timeout, allow_redirects=False)
        except (requests.RequestException, ValueError) as error:
            return type(error).__name__
        return None if answer.status_code == HTTPStatus.OK else f"HTTP {answer.status_code}"

    def _note(self, callback: _Callback, refusal: str | None) -> None:
        with self._changed:
            if callback.attempt == 1:
                self._queue_first(callback.followers)
            if refusal is None:
                self.delivered += 1
            else:
                self.refusals[refusal] += 1
                self._repeat(callback)
            if self.finished == self.planned:
                self._idle.notify_all()

    def _repeat(self, callback: _Callback) -> None:
        if callback.attempt == MOST_REQUESTS:
            self.given_up += 1
        else:
            due = time.monotonic() + self._options.retry_wait
            self._push(replace(callback, due=due, attempt=callback.attempt + 1))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        url, sandbox = urlsplit(self.path), self.server.sandbox
        # names without case, since the placing pages themselves have both RequestID and RequestId
        query = {name.lower(): value for name, value in parse_qsl(url.query, keep_blank_values=True)}
        match url.path.removeprefix(SERVICE_PATH):
            case "/MakeCallRecord_V2" | "/MakeCallTemplate_V2":
                self.send_json(sandbox.placing_answer(query))
            case "/GetSendStatus":
                code, answer = sandbox.lookup_answer(query)
                respond = _Handler.send_json if code == HONEST else FAULTS[code]
                respond(self, answer)
            case _:
                self.send(b"<h1>Endpoint not found</h1>", status=404, kind="text/html")

    def send_json(self, answer: dict[str, Any]) -> None:
        self.send(json.dumps(answer).encode())

    def send(self, body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: request lines hold keys."""


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection; ``stop`` ends them all, whatever they are at."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.stopping = threading.Event()
        self._connections: set[Any] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        super().__init__(address, _Handler)

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


# What can go wrong with a look-up

Fault = Callable[[_Handler, dict[str, Any]], None]


def _page(status: int, body: bytes = b"<html>Maintenance</html>") -> Fault:
    return lambda handler, _: handler.send(body, status=status, kind="text/html")


def _http_date(*, seconds_ahead: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds_ahead), usegmt=True)


def _failure(code: str) -> Fault:
    return lambda handler, _: handler.send_json(failure_fields(code))


def _saying(**said: object) -> Fault:
    return lambda handler, answer: handler.send_json({"ReferenceId": answer.get("ReferenceId"), **said})


def _hang(handler: _Handler, _: dict[str, Any]) -> None:
    handler.close_connection = True
    handler.connection.recv(1, socket.MSG_PEEK)  # returns when the client leaves or the sandbox stops


def _drip(opening: bytes) -> Fault:
    def drip(handler: _Handler, _: dict[str, Any]) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + opening)
        while not handler.server.stopping.wait(DRIP_SECONDS):
            handler.wfile.write(b" ")

    return drip


def _reset(handler: _Handler, _: dict[str, Any]) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _wrong_reference(handler: _Handler, answer: dict[str, Any]) -> None:
    sandbox = handler.server.sandbox
    call = sandbox.calls.get(normalised(answer.get("ReferenceId", "")))
    neighbour = draw_call(sandbox.options, call.number ^ 1 if call else 0)
    handler.send_json(answer | {"ReferenceId": neighbour.reference_id.upper()})


def _no_reference(handler: _Handler, answer: dict[str, Any]) -> None:
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
    "not-final": _saying(CallDuration=0, CallStatus="", CodeResponse="100", Ivr="", SendStatus=SENT, SentResult=0),
    "nothing-said": _saying(
        CallDuration=None, CallStatus="", CodeResponse="100", Ivr="", ReferenceId=None, SendStatus=None, SentResult=""
    ),
    "unknown-code": _failure("999"),
    **{code: _failure(code) for code in ("99", "101", "104", "105", "140", "143", "160")},
}
"""What can come of a look-up instead of the true answer, which it is given, by name."""


# The command

Command = TypeVar("Command", bound=Callable[..., Any])
OUTPUT = click.File("w", encoding="utf-8", lazy=False)
ADDRESS = "127.0.0.1:8808"
BIND_HELP = "Where to listen; port 0 takes any that is free."
FAULT_HELP = f"A fault that --error-rate draws from, repeatable; by default any of {', '.join(FAULTS)}."


def _with_knobs(command: Command) -> Command:
    for knob in reversed(fields(Options)):
        if knob.metadata:
            flag = "--" + knob.name.replace("_", "-")
            command = click.option(flag, default=knob.default, show_default=True, **knob.metadata)(command)
    return command


def _read_address(_: click.Context, __: click.Parameter, value: str) -> tuple[str, int]:
    host, _colon, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise click.BadParameter(f"{value!r} is not an address such as 127.0.0.1:8808.")
    return host, int(port)


def _read_callback_url(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return checked_callback_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("sandbox")
@click.option("--bind", default=ADDRESS, show_default=True, metavar="HOST:PORT", callback=_read_address, help=BIND_HELP)
@click.option("--calls", "count", help="Place a campaign of so many calls.", **AT_LEAST_ONE)
@click.option("--callback-url", default="", metavar="URL", callback=_read_callback_url, help="Where its callbacks go.")
@click.option("--campaign", default="sandbox", show_default=True, metavar="NAME", help="Its name in --placed.")
@click.option("--placed", type=OUTPUT, metavar="FILE", help="Write what was placed: a CSV for `esms-calls register`.")
@click.option("--truth", type=OUTPUT, metavar="FILE", help="Write how each call ended, and its fate: JSON Lines.")
@click.option("--once", is_flag=True, help="Exit when the campaign's callbacks are through.")
@_with_knobs
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), metavar="NAME", help=FAULT_HELP)
def sandbox_command(
    *,
    bind: tuple[str, int],
    count: int | None,
    callback_url: str,
    campaign: str,
    placed: IO[str] | None,
    truth: IO[str] | None,
    once: bool,
    **knobs: Any,
) -> None:
    """Stand in for eSMS on this machine: take calls, send their callbacks, answer look-ups.

    Speaks the voice API (MakeCallRecord_V2, MakeCallTemplate_V2, GetSendStatus) and sends the callbacks of the calls
    that it is given. With --calls it places a campaign by itself. Runs until Ctrl-C, or until --once is through.

    SHARE is a number from 0 to 1: 0.05 is one in twenty.

    \b
    A campaign that loses one final callback in twenty:
      esms-calls sandbox --calls 500 --lost 0.05 --placed placed.csv \\
          --callback-url "$(esms-calls callback-url)"

    \b
    Then, in another terminal, with the settings that it prints:
      esms-calls register placed.csv
      esms-calls reconcile --older-than 0s
    """  # noqa: D301 (click wants the control character)
    if bool(count) != bool(callback_url):
        raise click.UsageError("--calls and --callback-url belong together: give both, or neither.")
    if not count and (placed or truth or once):
        raise click.UsageError("--placed, --truth and --once need a campaign: give --calls and --callback-url too.")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # below it logs URLs, and with them the callback token
    with _stopped_by_signals() as stopped, _listening(bind, Options(**knobs)) as sandbox:
        click.echo(f"Standing in for eSMS at {sandbox.api_url}\nTo use it (any keys will do):")
        click.echo(f"  export ESMS_API_URL={sandbox.api_url} ESMS_API_KEY=any ESMS_SECRET_KEY=any")
        if count:
            calls = sandbox.place(count, callback_url=callback_url)
            _write_placed(placed, calls, campaign)
            _write_truth(truth, calls)
            _watch(sandbox, callback_url, stopped)
            _summarise(sandbox)
        if not once:
            click.echo("Answering look-ups until Ctrl-C.")
            stopped.wait()


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listening(bind: tuple[str, int], options: Options) -> Sandbox:
    host, port = bind
    try:
        return Sandbox(options, host=host, port=port)
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another address with --bind, "
            "or stop the program that has it; port 0 takes any that is free."
        ) from None


def _write_placed(file: IO[str] | None, calls: list[PlacedCall], campaign: str) -> None:
    if file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["reference_id", "phone", "campaign", "placed_at"])
        rows.writerows([call.reference_id, call.phone, campaign, call.placed_at.isoformat()] for call in calls)
        file.flush()


def _write_truth(file: IO[str] | None, calls: list[PlacedCall]) -> None:
    if file:
        for call in calls:
            texts = {"placed_at": call.placed_at.isoformat(), "price": f"{call.price:.4f}"}
            file.write(json.dumps(asdict(call) | texts) + "\n")
        file.flush()


def _watch(sandbox: Sandbox, callback_url: str, stopped: threading.Event) -> None:
    """Show on standard error how far the callbacks are, until they are through or all is to stop."""
    console, callbacks, told = Console(stderr=True), sandbox.callbacks, 0
    title = f"Callbacks to {urlsplit(callback_url).scheme}://{urlsplit(callback_url).hostname}"
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=callbacks.planned)
        through = False
        while not through and not stopped.is_set():
            through = sandbox.wait(0.2)
            bar.update(task, completed=callbacks.finished)
            percent = 100 * callbacks.finished // max(callbacks.planned, 1)
            if not console.is_terminal and percent >= told + 10:
                told = percent
                click.echo(f"{title}: {callbacks.finished:,} of {callbacks.planned:,}", err=True)


def _summarise(sandbox: Sandbox) -> None:
    calls, callbacks = sandbox.calls.values(), sandbox.callbacks
    refusals = ", ".join(f"{count:,} x {refusal}" for refusal, count in callbacks.refusals.most_common())
    rows = {
        "calls placed": f"{len(calls):,}",
        "- lost on purpose": f"{sum(call.lost for call in calls):,}",
        "- doubled": f"{sum(call.doubled for call in calls):,}",
        "- late": f"{sum(call.late for call in calls):,}",
        "callbacks delivered": f"{callbacks.delivered:,}",
        "- given up": f"{callbacks.given_up:,} (after {MOST_REQUESTS} requests each)",
        "- not sent": f"{callbacks.planned - callbacks.finished:,}",
        "- not answered 200": refusals or "none",
    }
    click.echo("\n".join(f"{name:20} {value}" for name, value in rows.items()))
