"""Reads the answers of eSMS's GetSendStatus: their codes, what these mean, and the status report in them.

Facts are marked *documented* (the provider's pages), *seen* (in examples on those pages) or *assumed*.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from webapp.calls.report import Kind, StatusReport
from webapp.esms.parameters import (
    BOM,
    NO_TEXT,
    Parameters,
    Unreadable,
    build_report,
    identity_or_none,
    read_json_object,
    read_text,
    redacted_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

ACCEPTED = "100"
UNDECIDED = "99"
"""*documented* as "number blocked", *seen* as "unknown error, try again later": decides nothing by itself."""
UNKNOWN_CALL = frozenset({"104", "105"})
ACCOUNT_REFUSED = {
    "101": "the ApiKey or SecretKey is wrong: check ESMS_API_KEY and ESMS_SECRET_KEY",
    "140": "this machine's IP address is not whitelisted: have eSMS add it",
    "143": "the account is not active, or locked: ask eSMS",
}
TOO_FAST = "160"
"""*documented*: over the limit of requests a second."""
TIMEOUT, UNREACHABLE, TLS = "timeout", "unreachable", "tls"
"""Codes of our own, where no answer came."""
NO_ANSWER = frozenset({TIMEOUT, UNREACHABLE, TLS})
NO_ANSWER_PREFIX = "http-5"
"""How the code of an HTTP 5xx begins, which counts as no answer, too."""
UNREADABLE, WRONG_REFERENCE = "unreadable", "wrong-reference"
"""Codes of our own, for answers that are none about the call."""
CODES = (
    *(ACCEPTED, UNDECIDED, "101", "102", "104", "105", "140", "143", TOO_FAST),
    *("http-3xx", "http-4xx", "http-429", "http-5xx", "http-503"),
    *(TIMEOUT, UNREACHABLE, TLS, UNREADABLE, WRONG_REFERENCE, "other"),
)
"""A closed set of codes, for counting; see ``code_class``."""
LOOKUP_FIELDS = ("call_status", "call_duration", "ivr", "send_status", "sent_result", "price")
"""What GetSendStatus can say about a call: *documented*; the price of a voice OTP alone, and no cid."""
_CODES = ("CodeResponse", "CodeResult")
"""*documented*: the first in a success of GetSendStatus, the second in a failure."""


def code_class(code: str) -> str:
    """The code as one of ``CODES``: a rare HTTP status by its first digit, a code that is not documented as other."""
    if code in CODES:
        return code
    by_digit = f"{code[:6]}xx"
    return by_digit if code.startswith("http-") and by_digit in CODES else "other"


class LookupRequest(NamedTuple):
    """The call that eSMS is asked about: its id as we have it, and as eSMS spells it if that is known; its kind."""

    reference_id: str
    esms_id: str | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class LookupAnswer:
    """What one look-up (GetSendStatus) about one call brought.

    ``code`` is eSMS's code, or http-500 and the like, timeout, unreachable, tls, unreadable, wrong-reference. A report
    comes with the codes 100 and 99 only. ``retry_after_seconds``: how long eSMS wants no request (*assumed*: as HTTP
    has it). ``problem`` says in words why no answer came. ``clock_ahead``: how far this machine's clock is ahead of
    eSMS's (behind it: negative), give or take the time that the answer took; None where eSMS says no time.
    ``message_api_limited``: the message API, which was asked second, answered 503; the voice API's answer stands.
    """

    reference_id: str
    code: str
    report: StatusReport | None = None
    retry_after_seconds: float | None = None
    problem: str | None = None
    clock_ahead: timedelta | None = None
    message_api_limited: bool = False

    @property
    def answered(self) -> bool:
        """Whether eSMS answered at all. Not: no connection, a time-out, an HTTP 5xx."""
        return self.code not in NO_ANSWER and not self.code.startswith(NO_ANSWER_PREFIX)

    @property
    def rate_limited(self) -> bool:
        """Whether eSMS wants to be asked more slowly. *documented*: 160; *assumed*: HTTP's 429 and 503."""
        return self.code in {TOO_FAST, "http-429", "http-503"}

    @property
    def slows_down(self) -> bool:
        """Whether the look-ups after this one have to leave more slowly."""
        return self.rate_limited or self.message_api_limited

    @property
    def refused(self) -> bool:
        """Whether eSMS refuses the account, so that every other look-up would be refused as well."""
        return self.code in ACCOUNT_REFUSED

    @property
    def permits_giving_up(self) -> bool:
        """Whether a call past RECONCILE_GIVE_UP is given up on this answer: it is from eSMS, and not final.

        Codes that we do not know and unreadable answers are such an answer. An HTTP error, a redirect and 160 are none.
        """
        return self.answered and not self.code.startswith("http-") and self.code != TOO_FAST and self.kind != "final"

    @property
    def kind(self) -> Literal["final", "pending", "not_found", "failed"]:
        """What it means for the call."""
        if self.report:
            return "final" if self.report.final else "pending"
        return "not_found" if self.code in UNKNOWN_CALL else "failed"


def parse_lookup(
    reference_id: str, content: bytes, *, report_id: UUID, received_at: datetime, redact: Callable[[str], str] = str
) -> LookupAnswer:
    """The answer that GetSendStatus gave about ``reference_id``, from the body of its HTTP response; never raises.

    ``redact`` takes secrets out of texts: eSMS may repeat our request in its answer.

    *documented*: the code is CodeResponse in a success and CodeResult in a failure; types are unreliable; voice calls
    are named by ReferenceId and have no price and no cid, a voice OTP is named by SMSID. *assumed*: a BOM and an absent
    identity are harmless.
    """
    try:
        pairs = read_json_object(content.removeprefix(BOM).strip(), strict=True)
        parameters = redacted_parameters(pairs, redact)
        code = read_text(next(filter(None, map(parameters.first, _CODES)), NO_TEXT))
        of_all = code in ACCOUNT_REFUSED or code == TOO_FAST
        if not of_all and _is_about_another_call(parameters, reference_id):
            return LookupAnswer(reference_id, WRONG_REFERENCE)
        if code not in {ACCEPTED, UNDECIDED}:
            return LookupAnswer(reference_id, code)
        report = build_report(
            parameters,
            reference_id,
            [],
            id=report_id,
            source="lookup",
            received_at=received_at,
            lookup_code=code,
        )
        return LookupAnswer(reference_id, code, report)
    except (Unreadable, ValueError, RecursionError):
        return LookupAnswer(reference_id, UNREADABLE)


def _is_about_another_call(parameters: Parameters, reference_id: str) -> bool:
    """By ReferenceId, or where that is not said, by an SMSID that can be one."""
    named = parameters.first("ReferenceId")
    if named is not None:
        return identity_or_none(named) != reference_id
    return identity_or_none(parameters.first("SMSID") or NO_TEXT) not in {None, reference_id}
