"""Makes requests to the callback URL that no program would send: random ones, each from a seed that repeats it."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from constants import CALLBACK_TOKEN

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

REQUESTS = int(os.environ.get("FUZZ_REQUESTS") or 100)
"""How many are sent at least; `make soak` sets it."""
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 1)
"""For how long at least; `make fuzz` sets it."""
CONNECTIONS = 8
SEED = int(os.environ.get("FUZZ_SEED") or time.time())
ALLOWED = {100, 200, 308, 400, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501, 505}
"""What a server may say to any request: none of these is its own fault. 308: a URL without a path lacks its slash."""

_RIGHT = f"/esms/callback/{CALLBACK_TOKEN}"
_PATHS = [
    *[_RIGHT] * 12,
    f"{_RIGHT}/",
    f"//esms//callback//{CALLBACK_TOKEN}",
    f"/esms/./callback/../callback/{CALLBACK_TOKEN}",
    f"/esms/callback/{''.join(f'%{ord(letter):02X}' for letter in CALLBACK_TOKEN)}",
    f"http://calls.example.vn{_RIGHT}",
    f"{_RIGHT}%00",
    f"{_RIGHT}\N{LATIN SMALL LETTER E WITH ACUTE}",
    f"{_RIGHT}%0d%0aSet-Cookie:%20a=b",
    "/%1b[2J%0a2026-11-30 00:00:00,000 INFO forged",
    "/?lang=%0d%0aSet-Cookie:%20a=b",
    "/esms/callback/",
    "/esms/callback/a-wrong-token-of-the-tests",
    f"/esms/callback/{'t' * 3000}",
    "*",
    "",
]
_METHODS = [*["GET"] * 40, *["POST"] * 40, "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "P OST", "\0"]
_NAMES = [
    *["CallDuration", "CallStatus", "Ivr", "Price", "SentResult", "CID", "SendStatus"] * 3,
    *["SendSuccess", "SendFailed", "TotalPrice", "TypeId", "phonenumber", "RequestId", "error_info"],
    *[
        "ReferenceId",
        "SMSID",
        "referenceid",
        " ReferenceId",
        "ReferenceId[]",
        "__proto__",
        "a" * 300,
        "",
        "\0",
        "é",
        "amp;CID",
    ],
]
_VALUES = [
    *["call-1", "CALL-2 ", "066107ee-6ec4-4283-b595-aa74977c65c5", "ANSWERED", "NO ANSWER", "5", "7", "2", "0", "1"]
    * 2,
    *[
        "450.0000",
        "13.0",
        "1e9",
        "-1",
        "NaN",
        "Infinity",
        "9" * 30,
        "0x10",
        "٣",
        "\N{FULLWIDTH DIGIT ONE}",
        "4.50000",
        "99999999999",
    ],
    *["", " ", "\t", "\0", "\r\nSet-Cookie: a=b", "\n\n", "\x1b[2J", "\N{RIGHT-TO-LEFT OVERRIDE}", "\ud800", "😀" * 90],
    *[
        "'; DROP TABLE calls; --",
        "<script>alert(1)</script>",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "%s%n",
        "../../etc/passwd",
    ],
    *["x" * 300, "x" * 20_000, CALLBACK_TOKEN],
]
_KINDS = [
    *["application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x", "text/plain"] * 2,
    *[
        "application/json; charset=utf-16",
        "text/html; charset=nonsense",
        "multipart/form-data",
        "; ;;=",
        "",
        "a" * 3000,
    ],
]
_ODD_HEADERS = [
    *["Content-Length: 5", "Content-Length: -1", "Content-Length: +3", "Content-Length: 99999999999999999999"],
    *["Transfer-Encoding: chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: \x0bchunked"],
    *["Content-Encoding: gzip", "Expect: 100-continue", "Upgrade: h2c", "Connection: upgrade", "Host: a", "Host: "],
    *[
        "X-Forwarded-For: evil, 1.2.3.4:5, ::1",
        "X-Forwarded-Proto: \x7f",
        "X-Forwarded-Host: a/../b",
        "Forwarded: for=x",
    ],
    *[
        "Cookie: session=" + "a" * 3000,
        "X-Request-ID: " + "r" * 500,
        "X_Under: a",
        "A : b",
        "no colon",
        " folded",
        ": a",
    ],
    *["A: " + "b" * 9000, "Range: bytes=0-", "Accept-Language: %s%s", "Authorization: Bearer ", "\xff\xfe: \xff"],
]
_CUTS = [b"\r\n", b"\n", b"\0", b"\r\n\r\n", b" ", b"%", b"&", b"=", b"\xff"]


class Fuzzed(NamedTuple):
    """A request; ``sound``: it is HTTP, so that it must be answered."""

    data: bytes
    sound: bool


class Fuzzer:
    """The same requests for the same seed."""

    def __init__(self, seed: int) -> None:
        """Begin anew."""
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be unknown
        self._identity = ""

    def request(self) -> Fuzzed:
        """The next request."""
        choose = self._random.choice
        self._identity = f"call-{self._random.randrange(200)}"
        method, path = choose(_METHODS), choose(_PATHS)
        query = self._query() if self._chance(0.7) else ""
        body = self._body() if method == "POST" or self._chance(0.1) else b""
        headers = ["Host: calls.example.vn", "Connection: close", f"Content-Length: {len(body)}"]
        if body:
            headers.append(f"Content-Type: {choose(_KINDS)}")
        odd = [choose(_ODD_HEADERS) for _ in range(self._random.choice((0, 0, 0, 0, 0, 0, 1, 2)))]
        self._random.shuffle(headers)
        head = "\r\n".join([f"{method} {path}{'?' if query else ''}{query} HTTP/1.1", *headers, *odd, "", ""])
        data = head.encode("utf-8", "surrogatepass") + body
        if self._chance(0.15):
            return Fuzzed(self._mutated(data), sound=False)
        return Fuzzed(data, sound=not odd and method in {"GET", "POST"} and path == _RIGHT)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _pairs(self) -> list[tuple[str, str]]:
        choose = self._random.choice
        identity = [(choose(("ReferenceId", "SMSID", "REFERENCEID")), self._identity)] if self._chance(0.7) else []
        return identity + [(choose(_NAMES), choose(_VALUES)) for _ in range(self._random.randrange(7))]

    def _query(self) -> str:
        """Mostly encoded as it ought to be, sometimes twice, sometimes in no right way."""
        quoted = urlencode([(_bytes(name), _bytes(value)) for name, value in self._pairs()])[:6000]
        if self._chance(0.1):
            return quote(quoted)
        if self._chance(0.1):
            return quoted.replace("=", self._random.choice(["", "%", "==", "&", ";"]))
        return quoted

    def _body(self) -> bytes:
        pairs = self._pairs()
        make = self._random.choice((self._form, self._form, self._json, self._multipart, self._noise))
        return make(pairs)

    def _form(self, pairs: list[tuple[str, str]]) -> bytes:
        return urlencode([(_bytes(name), _bytes(value)) for name, value in pairs]).encode()

    def _json(self, pairs: list[tuple[str, str]]) -> bytes:
        odd: list[object] = [None, True, 13, 1.5, float("nan"), [], {}, ["a"], {"ReferenceId": "a"}, 10**400]
        values = {name: self._random.choice(odd) if self._chance(0.3) else value for name, value in pairs}
        text = json.dumps(self._random.choice((values, [values], "call-1", None)) if self._chance(0.2) else values)
        encoding = self._random.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"))
        return text.encode(encoding) * self._random.choice((1, 1, 1, 2))

    def _multipart(self, pairs: list[tuple[str, str]]) -> bytes:
        part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        return _bytes("".join(part.format(*pair) for pair in pairs) + self._random.choice(("--x--\r\n", "", "--x")))

    def _noise(self, pairs: list[tuple[str, str]]) -> bytes:
        size = self._random.choice((1, 10, 100 * len(pairs), 70_000 if self._chance(0.05) else 1000))
        return self._random.randbytes(size)

    def _mutated(self, data: bytes) -> bytes:
        """The request with one to four changes at random places."""
        for _ in range(self._random.randint(1, 4)):
            at, to = sorted(self._random.randrange(len(data) + 1) for _ in range(2))
            change = self._random.randrange(5)
            if change == 0:
                data = data[:at] + self._random.choice(_CUTS) + data[at:]
            elif change == 1:
                data = data[:at] + self._random.randbytes(1) + data[at + 1 :]
            elif change == 2:
                data = data[:at] + data[min(to, at + 20) :]
            elif change == 3:
                data = data[:to] + data[at:to][:1000] + data[to:]
            else:
                data = data[: max(at, 1)]
        return data


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Answers:
    """What fuzzed requests were answered, over one connection each."""

    def __init__(self, connect: Callable[[], socket.socket], *, half_close: bool) -> None:
        """``half_close``: whether the end of a request can be signalled to the server; else there is a short wait."""
        self._connect, self._half_close = connect, half_close
        self.statuses: Counter[int] = Counter()
        self.results: Counter[str] = Counter()
        self.sent = self.unanswered = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        self.wrong: list[bytes] = []
        """Those that were sound and not answered, or whose answer holds the token or a header of their own."""

    def run(self, seconds: float = SECONDS, requests: int = REQUESTS) -> None:
        """Send until both are reached, over several connections at a time."""
        began = time.monotonic()
        until = self.sent + requests

        def work(fuzzer: Fuzzer) -> None:
            while time.monotonic() - began < seconds or self.sent < until:
                self.send(fuzzer.request())

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for done in [pool.submit(work, Fuzzer(SEED + number)) for number in range(CONNECTIONS)]:
                done.result()
        self.seconds += time.monotonic() - began

    def __str__(self) -> str:
        """For a document, and to repeat it."""
        rate = self.sent / self.seconds
        return f"seed {SEED}: {self.sent:,} requests, {rate:,.0f}/s: {dict(self.statuses)}, {dict(self.results)}"

    def send(self, request: Fuzzed) -> None:
        """One request; its answer is counted."""
        answer = b""
        with suppress(OSError), self._connect() as line:
            line.settimeout(20 if request.sound or self._half_close else 0.25)
            with suppress(OSError):  # what is refused early is not read to its end
                line.sendall(request.data)
                if self._half_close and not request.sound:
                    line.shutdown(1)
            while part := line.recv(1 << 16):
                answer += part
        found = [int(status) for status in re.findall(rb"^HTTP/1\.[01] ([0-9]{3}) ", answer, re.MULTILINE)]
        results = re.findall(r'^\{"result": ?"([a-z-]+)"', answer.decode("latin-1"), re.MULTILINE)
        # The page and a redirect keep the query that they are asked with, for the one who sent it.
        leaked = CALLBACK_TOKEN.encode() in answer and b"text/html" not in answer
        injected = re.search(rb"(?mi)^set-cookie: a=b", answer)
        with self._lock:
            self.sent += 1
            self.statuses.update(found)
            self.results.update(results)
            self.unanswered += not found
            if leaked or injected or (request.sound and not found):
                self.wrong.append(request.data)
