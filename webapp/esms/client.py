"""Asks eSMS's GetSendStatus over HTTP, one call at a time; whatever eSMS or the network does becomes a LookupAnswer.

The keys travel in the query string (*documented*), so no exception of ``requests`` may leave this module.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, quote_plus

import requests

from webapp.esms import lookup as esms_lookup
from webapp.esms import network, parameters
from webapp.esms.lookup import TIMEOUT, UNREADABLE, LookupAnswer, LookupRequest
from webapp.esms.network import Endpoint, Network
from webapp.support.redaction import longest_first, redact
from webapp.support.workarounds.urllib3_deadline import DeadlineSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ANSWER_LIMIT = 1024 * 1024
"""Bytes of an answer; *assumed*: the published ones have under 200."""
_ANSWER_CHUNK = 16 * 1024
_DIRECT = Network()
_SHORTEST_REDACTED = 4
"""Characters of a key that is redacted in answers: a shorter one, of a test, may well be part of a word in them."""

for _name in ("connection", "connectionpool", "poolmanager", "util.retry"):
    # They log URLs, and with them the keys; of a response with a broken header even as a warning.
    logging.getLogger(f"urllib3.{_name}").setLevel(logging.CRITICAL)


class _Function(NamedTuple):
    """A status function of eSMS: its address, and its parameter for the call's id."""

    endpoint: Endpoint
    id_name: str


class Client:
    """Looks calls up at eSMS, from many threads at once. Connections are kept alive and used again."""

    def __init__(
        self,
        url: str,
        api_key: str,
        secret_key: str,
        timeout: timedelta,
        *,
        message_url: str | None = None,
        network: Network = _DIRECT,
        callback_tokens: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """``timeout`` is for one look-up as a whole, however slowly its answer drips in. Connects to nothing yet.

        ``message_url``: the message API, which knows voice OTP calls; None: every call is looked up at ``url``.
        ``callback_tokens`` gives those that are taken out of answers, as the keys are: eSMS knows the CallbackUrl.
        """
        self._voice = _function(url, "ESMS_API_URL", network, "ReferenceId")
        self._message = _function(message_url, "ESMS_MESSAGE_API_URL", network, "RefId") if message_url else None
        self._keys = {"ApiKey": api_key, "SecretKey": secret_key}
        self._spellings = {
            spelling
            for key in (api_key, secret_key, network.proxy_password)
            if len(key) >= _SHORTEST_REDACTED
            for spelling in (key, quote(key), quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1])
        }
        self._callback_tokens = callback_tokens
        self._timeout_seconds = timeout.total_seconds()
        self._verify = str(network.ca_bundle) if network.ca_bundle else True
        self._idle_sessions: list[DeadlineSession] = []

    def look_up(self, request: LookupRequest, *, may_repeat: Callable[[], bool] = lambda: True) -> LookupAnswer:
        """What eSMS says about the call now, within the timeout; never raises.

        Where a kept connection has ended before any byte of an answer came, ``may_repeat`` says whether the request may
        leave once more, on a new one.
        A call whose kind is not known is looked up as a voice OTP, too, if eSMS does not know it as a voice call. If
        that brings no answer, the call is not known yet; a 503 there slows look-ups down all the same.
        """
        session = self._take_session()
        try:
            with session.deadline(self._timeout_seconds):
                ask = partial(self._ask, session, request, may_repeat)
                if self._message is None or request.kind == "voice":
                    return ask(self._voice)
                if request.kind == "otp":
                    return ask(self._message)
                answer = ask(self._voice)
                if answer.kind != "not_found":
                    return answer
                otp_answer = ask(self._message)
                if otp_answer.answered and otp_answer.kind != "not_found":
                    return otp_answer
                return replace(
                    answer,
                    retry_after_seconds=otp_answer.retry_after_seconds,
                    message_api_limited=otp_answer.rate_limited,
                )
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
            # The keys are in the URL: of the environment only what the settings take over may change the request.
            session.trust_env = False
            session.verify = self._verify
            return session

    def _ask(
        self, session: DeadlineSession, request: LookupRequest, may_repeat: Callable[[], bool], function: _Function
    ) -> LookupAnswer:
        reference_id = request.reference_id
        code, error = TIMEOUT, None
        try:
            asked_at = datetime.now(UTC)
            with self._open(session, request, may_repeat, function) as response:
                answer = self._read(response, reference_id, asked_at)
            if not session.deadline_passed:
                return answer
        except requests.exceptions.ContentDecodingError:
            code = UNREADABLE
        except Exception as failed:  # noqa: BLE001 - a socket that is cut while it is read fails in many ways
            error = failed
        if session.deadline_passed:
            error = requests.Timeout()
        if error is None:
            return LookupAnswer(reference_id, code)
        code, problem = network.failure(error, function.endpoint, connected=session.connected)
        return LookupAnswer(reference_id, code, problem=redact(problem, self._spellings))

    def _open(
        self, session: DeadlineSession, request: LookupRequest, may_repeat: Callable[[], bool], function: _Function
    ) -> requests.Response:
        """The response, of which only the head is read yet. If a kept connection has ended, a new one is made once."""
        query = {**self._keys, function.id_name: request.esms_id or request.reference_id}
        for _ in range(2):
            try:
                return session.get(
                    function.endpoint.url,
                    params=query,
                    proxies=function.endpoint.proxies,
                    timeout=self._timeout_seconds,
                    allow_redirects=False,
                    stream=True,
                )
            except requests.ConnectionError as error:
                failed = error
                ended = session.kept_connection and network.kept_connection_ended(error)
                if not ended or session.deadline_passed or not may_repeat():  # a passed deadline cuts it here
                    break
        raise failed

    def _read(self, response: requests.Response, reference_id: str, asked_at: datetime) -> LookupAnswer:
        head = LookupAnswer(
            reference_id,
            f"http-{response.status_code}",
            retry_after_seconds=_retry_after_seconds(response),
            clock_ahead=_clock_ahead(response, asked_at),
        )
        if response.status_code // 100 != 2:  # noqa: PLR2004 - any of them may be a success
            return head
        content = _body(response)
        if content is None:
            return replace(head, code=UNREADABLE)
        secrets = longest_first({*self._spellings, *self._callback_tokens()})
        answer = esms_lookup.parse_lookup(
            reference_id,
            content,
            report_id=parameters.new_id(),
            received_at=datetime.now(UTC),
            redact=partial(redact, secrets=secrets),
        )
        return replace(head, code=answer.code, report=answer.report)


def _function(url: str, setting: str, network: Network, id_name: str) -> _Function:
    return _Function(Endpoint(f"{url}/GetSendStatus", setting, network.proxies_for(url)), id_name)


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


def _clock_ahead(response: requests.Response, asked_at: datetime) -> timedelta | None:
    """How far this machine's clock is ahead of eSMS's Date, at least; behind it: negative."""
    now = datetime.now(UTC)
    try:
        date = parsedate_to_datetime(response.headers.get("Date", ""))
        return max(asked_at - date, timedelta(0)) or min(now - date, timedelta(0))
    except (ValueError, TypeError, OverflowError):
        return None


def _body(response: requests.Response) -> bytes | None:
    """The body; None if it is over the limit."""
    content = bytearray()
    for chunk in response.iter_content(_ANSWER_CHUNK):
        content += chunk
        if len(content) > ANSWER_LIMIT:
            return None
    return bytes(content)
