"""Asks eSMS's GetSendStatus over HTTP, one call at a time; whatever eSMS or the network does becomes a LookupAnswer.

The keys travel in the query string (*documented*), so no exception of ``requests`` may leave this module.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import requests

from webapp.esms import lookup as esms_lookup
from webapp.esms import parameters
from webapp.esms.lookup import TIMEOUT, UNREACHABLE, UNREADABLE, LookupAnswer
from webapp.support.redaction import redact
from webapp.support.workarounds.urllib3_deadline import DeadlineSession

if TYPE_CHECKING:
    from datetime import timedelta

ANSWER_LIMIT = 1024 * 1024
"""Bytes of an answer; *assumed*: the published ones have under 200."""
_CHUNK = 16 * 1024
_TEXTS = ("call_status", "ivr", "cid", "request_id", "phone", "payload")
_SHORTEST_REDACTED = 4
"""Characters of a key that is redacted in answers: a shorter one, of a test, may well be part of a word in them."""

for _name in ("connection", "connectionpool", "poolmanager", "util.retry"):
    # They log URLs, and with them the keys; of a response with a broken header even as a warning.
    logging.getLogger(f"urllib3.{_name}").setLevel(logging.CRITICAL)


class Client:
    """Looks calls up at eSMS, from many threads at once. Connections are kept alive and used again."""

    def __init__(self, url: str, api_key: str, secret_key: str, timeout: timedelta) -> None:
        """``timeout`` is for one look-up as a whole, however slowly its answer drips in. Connects to nothing yet."""
        self._url = f"{url}/GetSendStatus"
        self._keys = {"ApiKey": api_key, "SecretKey": secret_key}
        self._spellings = {
            spelling
            for key in (api_key, secret_key)
            if len(key) >= _SHORTEST_REDACTED
            for spelling in (key, quote(key), quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1])
        }
        self._timeout_seconds = timeout.total_seconds()
        self._idle_sessions: list[DeadlineSession] = []

    def look_up(self, reference_id: str) -> LookupAnswer:
        """What eSMS says about the call now, within the timeout; never raises."""
        session = self._take_session()
        try:
            with session.deadline(self._timeout_seconds):
                answer = self._ask(session, reference_id)
                return LookupAnswer(reference_id, TIMEOUT) if session.deadline_passed else answer
        finally:
            self._idle_sessions.append(session)

    def close(self) -> None:
        """Close every connection that is kept alive."""
        for session in self._idle_sessions:
            session.close()

    def _take_session(self) -> DeadlineSession:
        """A session that no other thread uses: the one that was used last, or a new one."""
        try:
            return self._idle_sessions.pop()
        except IndexError:
            session = DeadlineSession()
            # The keys are in the URL: no proxy of the environment, no netrc may see or change the request.
            session.trust_env = False
            return session

    def _ask(self, session: DeadlineSession, reference_id: str) -> LookupAnswer:
        try:
            with session.get(
                self._url,
                params=self._keys | {"ReferenceId": reference_id},
                timeout=self._timeout_seconds,
                allow_redirects=False,
                stream=True,
            ) as response:
                return self._read(response, reference_id)
        except requests.exceptions.ContentDecodingError:
            return LookupAnswer(reference_id, UNREADABLE)
        except requests.Timeout:
            return LookupAnswer(reference_id, TIMEOUT)
        except Exception:  # noqa: BLE001 - a socket that is cut while it is read fails in many ways
            return LookupAnswer(reference_id, UNREACHABLE)

    def _read(self, response: requests.Response, reference_id: str) -> LookupAnswer:
        wait_seconds = _retry_after_seconds(response)
        if response.status_code // 100 != 2:  # noqa: PLR2004 - any of them may be a success
            return LookupAnswer(reference_id, f"http-{response.status_code}", retry_after_seconds=wait_seconds)
        content = _body(response)
        if content is None:
            return LookupAnswer(reference_id, UNREADABLE)
        redacted = redact(content.decode("utf-8", "surrogateescape"), self._spellings)
        answer = esms_lookup.parse_lookup(
            reference_id,
            redacted.encode("utf-8", "surrogateescape"),
            report_id=parameters.new_id(),
            received_at=datetime.now(UTC),
        )
        return replace(self._redacted(answer), retry_after_seconds=wait_seconds)

    def _redacted(self, answer: LookupAnswer) -> LookupAnswer:
        """The answer without the keys: eSMS may repeat our request in it, in JSON's escapes, too."""
        texts: dict[str, Any] = {
            name: redact(text, self._spellings) for name in _TEXTS if (text := getattr(answer.report, name, None))
        }
        report = replace(answer.report, **texts) if answer.report else None
        return replace(answer, code=redact(answer.code, self._spellings), report=report)


def _retry_after_seconds(response: requests.Response) -> float | None:
    """How long eSMS wants no request: the header has seconds, or a date by eSMS's own clock."""
    wanted = response.headers.get("Retry-After", "").strip()
    try:
        if wanted.isdecimal():
            return float(wanted)
        said_at = response.headers.get("Date") or format_datetime(datetime.now(UTC))
        return max(0.0, (parsedate_to_datetime(wanted) - parsedate_to_datetime(said_at)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _body(response: requests.Response) -> bytes | None:
    """The body; None if it is over the limit."""
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > ANSWER_LIMIT:
            return None
    return bytes(content)
