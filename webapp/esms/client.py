"""Asks GetSendStatus over HTTP, one call at a time; whatever eSMS or the network does becomes an Answer.

The keys travel in the query string (*documented*), so no exception of ``requests`` may leave this module.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from webapp.esms import lookup as esms_lookup
from webapp.esms import parameters
from webapp.esms.lookup import LookupAnswer
from webapp.support.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

ANSWER_LIMIT = 1024 * 1024
"""Bytes of an answer; *assumed*: the published ones have under 200."""
_CHUNK = 16 * 1024
_TEXTS = ("call_status", "ivr", "cid", "request_id", "phone", "payload")
_SHORTEST_REDACTED = 4
"""Characters of a key that is taken out of answers: a shorter one, of a test, may well be part of a word in them."""

_current = threading.local()

for _name in ("connection", "connectionpool", "poolmanager", "util.retry"):
    # They log URLs, and with them the keys; of a response with a broken header even as a warning.
    logging.getLogger(f"urllib3.{_name}").setLevel(logging.CRITICAL)


class Client:
    """Looks calls up at eSMS. May be used by many threads; each keeps a connection alive."""

    def __init__(self, url: str, api_key: str, secret_key: str, timeout: timedelta) -> None:
        """``timeout`` is for one look-up as a whole, however slowly its answer drips in."""
        self._url = f"{url}/GetSendStatus"
        self._keys = {"ApiKey": api_key, "SecretKey": secret_key}
        self._spellings = {
            spelling
            for key in (api_key, secret_key)
            if len(key) >= _SHORTEST_REDACTED
            for spelling in (key, quote(key), quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1])
        }
        self._seconds = timeout.total_seconds()
        self._sessions: list[requests.Session] = []
        self._mine = threading.local()

    def prepare(self) -> None:
        """Do for this thread what takes its time and can be done before a look-up leaves."""
        self._session()

    def look_up(self, reference_id: str) -> LookupAnswer:
        """What eSMS says about the call now, within the timeout; never raises."""
        with _deadline(self._seconds) as deadline:
            try:
                answer = self._ask(reference_id)
            except requests.exceptions.ContentDecodingError:
                answer = LookupAnswer(reference_id, "unreadable")
            except requests.Timeout:
                answer = LookupAnswer(reference_id, "timeout", heard=False)
            except Exception:  # noqa: BLE001 - a socket that is shut in mid-read fails in many ways
                answer = LookupAnswer(reference_id, "unreachable", heard=False)
            return LookupAnswer(reference_id, "timeout", heard=False) if deadline.passed else answer

    def close(self) -> None:
        """Close every connection."""
        for session in self._sessions:
            session.close()

    def _ask(self, reference_id: str) -> LookupAnswer:
        with self._session().get(
            self._url,
            params=self._keys | {"ReferenceId": reference_id},
            timeout=self._seconds,
            allow_redirects=False,
            stream=True,
        ) as response:
            if response.status_code // 100 != 2:  # noqa: PLR2004 - any of them may be a success
                code = f"http-{response.status_code}"
                return LookupAnswer(reference_id, code, heard=False, retry_after=_retry_after(response))
            content = _read(response)
        if content is None:
            return LookupAnswer(reference_id, "unreadable")
        plain = redact(content.decode("utf-8", "surrogateescape"), self._spellings)
        content = plain.encode("utf-8", "surrogateescape")
        answer = esms_lookup.parse_lookup(
            reference_id, content, report_id=parameters.new_id(), received_at=datetime.now(UTC)
        )
        return replace(self._without_keys(answer), retry_after=_retry_after(response))

    def _without_keys(self, answer: LookupAnswer) -> LookupAnswer:
        """An answer that tells our request back is stored without the keys, also where JSON's escapes hid them."""
        clean: dict[str, Any] = {
            name: redact(text, self._spellings) for name in _TEXTS if (text := getattr(answer.report, name, None))
        }
        report = replace(answer.report, **clean) if answer.report else None
        return replace(answer, code=redact(answer.code, self._spellings), report=report)

    def _session(self) -> requests.Session:
        if not hasattr(self._mine, "session"):
            session = requests.Session()
            # The keys are in the URL: no proxy of the environment, no netrc may see or change the request.
            session.trust_env = False
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter())
            self._mine.session = session
            self._sessions.append(session)
        session = self._mine.session
        assert isinstance(session, requests.Session)  # noqa: S101
        return session


def _retry_after(response: requests.Response) -> float | None:
    """For how many seconds eSMS wants to be left alone; the header has them, or a date by eSMS's own clock."""
    wanted = response.headers.get("Retry-After", "").strip()
    try:
        if wanted.isdecimal():
            return float(wanted)
        said_at = response.headers.get("Date") or format_datetime(datetime.now(UTC))
        return max(0.0, (parsedate_to_datetime(wanted) - parsedate_to_datetime(said_at)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _read(response: requests.Response) -> bytes | None:
    """The body; None if it is over the limit."""
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > ANSWER_LIMIT:
            return None
    return bytes(content)


class _Deadline:
    """Cuts the connection that a look-up is using once its time is over: a timeout of ``requests`` is for each read."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._line: socket.socket | None = None

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._at

    def watch(self, connected: Any) -> None:
        """Cut this socket when time is over. By a duplicate: TLS and ``http.client`` put their own out of reach."""
        self.forget()
        self._line = socket.socket(fileno=os.dup(connected.fileno()))
        if self.passed:
            self.cut()

    def cut(self) -> None:
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        if self._line is not None:
            self._line.close()


@contextmanager
def _deadline(seconds: float) -> Iterator[_Deadline]:
    deadline = _current.deadline = _Deadline(seconds)
    timer = threading.Timer(seconds, deadline.cut)
    timer.daemon = True
    timer.start()
    try:
        yield deadline
    finally:
        timer.cancel()
        timer.join()
        deadline.forget()
        del _current.deadline


class _Watched:
    """A connection that the deadline of its thread can cut, from before the TLS handshake to the last byte."""

    sock: Any

    def _new_conn(self) -> Any:
        connected = super()._new_conn()  # type: ignore[misc]
        _current.deadline.watch(connected)
        return connected

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            _current.deadline.watch(self.sock)
        super().request(*args, **options)  # type: ignore[misc]


class _WatchedHTTP(_Watched, HTTPConnection):
    pass


class _WatchedHTTPS(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
