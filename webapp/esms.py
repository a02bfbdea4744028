"""eSMS's dialect, and nowhere else: its parameter names, spellings, codes and quirks, turned into StatusReports.

Knows nothing of Flask and the database. Facts are marked *documented* (the provider's pages), *seen* (in examples on
those pages) or *assumed*.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from email.message import Message
from email.parser import BytesParser
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

import uuid_utils.compat

from webapp.rule import StatusReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from uuid import UUID

BODY_LIMIT = 64 * 1024
"""Bytes of a callback's body; *assumed*: the published examples have under 300."""
TEXT_LIMIT = 200
IDENTITY_LIMIT = 128
_SEMICOLONS_AT_MOST = _PARTS_AT_MOST = 1000
_BOM = b"\xef\xbb\xbf"
_LARGEST_INTEGER = 2_147_483_647
_LARGEST_SMALL = 32_767
_LARGEST_PRICE = Decimal("9999999999.9999")
_PRICE_STEP = Decimal("0.0001")

_VISIBLE = re.compile(rf"[!-~]{{1,{IDENTITY_LIMIT}}}")
_BETWEEN_WORDS = re.compile(r"[\s_-]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]+")
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]{1,4})?")
_to_json = json.JSONEncoder(ensure_ascii=False).encode

ACCEPTED = "100"
BLOCKED = "99"
UNKNOWN_CALL = frozenset({"104", "105"})
ACCOUNT_REFUSED = {
    "101": "the ApiKey or SecretKey is wrong: check ESMS_API_KEY and ESMS_SECRET_KEY",
    "140": "this machine's IP address is not whitelisted: have eSMS add it",
    "143": "the account is not active, or locked: ask eSMS",
}
TOO_FAST = "160"
LOOKUP_FIELDS = ("call_status", "call_duration", "ivr", "send_status", "sent_result")
"""What GetSendStatus can say about a call: *documented*; no price and no cid."""
_CODES = ("CodeResponse", "CodeResult")
"""*documented*: the first in a success of GetSendStatus, the second in a failure."""


class Unreadable(Exception):
    """What came is no report. Its text names the parameter and is fit for the sender."""


def new_id() -> UUID:
    """A UUIDv7, which sorts by the time at which it was made."""
    return uuid_utils.compat.uuid7()


def normalise_identity(text: str) -> str:
    """A ReferenceId or SMSID as we keep it: stripped, lower case; raises ValueError.

    *seen*: upper and lower case, a trailing space, digits appended, no dashes. So it is a token, not a UUID.
    """
    stripped = text.strip()
    # Before lower(): the Kelvin sign becomes an ASCII k.
    if not _VISIBLE.fullmatch(stripped):
        raise ValueError(f"must have 1 to {IDENTITY_LIMIT} visible ASCII characters")
    return stripped.lower()


def normalise_status(text: str) -> str:
    """CallStatus in one spelling per outcome. *documented*: callbacks say NO ANSWER, GetSendStatus NOANSWERED."""
    upper = text.strip().upper()
    return "NOANSWERED" if _BETWEEN_WORDS.sub("", upper) in {"NOANSWER", "NOANSWERED"} else upper


def read_text(value: str) -> str:
    """Text as it is, if SQL text can hold it; raises ValueError."""
    if len(value) > TEXT_LIMIT or _UNSTORABLE.search(value):
        raise ValueError(f"must be text of at most {TEXT_LIMIT} characters, without NUL")
    return value


def _integer(largest: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        digits = value.lstrip("0") or "0"
        if not _DIGITS.fullmatch(value) or len(digits) > len(str(largest)) or int(digits) > largest:
            raise ValueError
        return int(digits)

    return read


def _price(value: str) -> Decimal:
    if not _AMOUNT.fullmatch(value) or (price := Decimal(value)) > _LARGEST_PRICE:
        raise ValueError
    return price.quantize(_PRICE_STEP)


_small = _integer(_LARGEST_SMALL)
_seconds = _integer(_LARGEST_INTEGER)

_PARAMETERS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    # theirs, ours, how it is read; where two fill one field, the first that is said counts.
    ("CallStatus", "call_status", lambda value: read_text(normalise_status(read_text(value)))),
    ("CallDuration", "call_duration", _seconds),
    ("Ivr", "ivr", read_text),
    ("SendStatus", "send_status", _small),
    ("SentResult", "sent_result", _small),
    ("SendSuccess", "sent_result", lambda value: 1 if _seconds(value) else None),  # documented: voice OTP
    ("SendFailed", "sent_result", lambda value: 0 if _seconds(value) else None),  # documented: voice OTP
    ("Price", "price", _price),
    ("TotalPrice", "price", _price),  # documented: voice OTP; also spelled Totalprice
    ("CID", "cid", read_text),
    ("RequestId", "request_id", read_text),  # documented: voice OTP
    ("phonenumber", "phone", read_text),  # documented: voice OTP
)
_IDENTITIES = ("ReferenceId", "SMSID")
"""*documented*: voice OTP callbacks say SMSID. Where both are said, ReferenceId counts."""
_NOTHING = (None,)


class Parameters:
    """Names and values as they came, in their order; names are matched without case."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Keep every pair."""
        self._pairs = list(pairs)
        self._said: dict[str, list[Any]] = {}
        self._json: str | None = None
        for name, value in self._pairs:
            if not _is_blank(value):
                self._said.setdefault(name.strip().lower(), []).append(value)

    def all(self, name: str) -> list[Any]:
        """The values that are not blank."""
        return self._said.get(name.lower(), [])

    def first(self, name: str) -> Any:
        """The first value that is not blank, or None: *documented*, the CallbackUrl's own parameters are empty."""
        return self._said.get(name.lower(), _NOTHING)[0]

    def as_json(self) -> str:
        """Everything, as a JSON object; a name that came several times has the list of its values."""
        self._json = self._json or self._as_json()
        return self._json

    def _as_json(self) -> str:
        merged: dict[str, Any] = {}
        repeated: set[str] = set()
        for name, value in self._pairs:
            if name in repeated:
                merged[name].append(value)
            elif name in merged:
                merged[name] = [merged[name], value]
                repeated.add(name)
            else:
                merged[name] = value
        return storable_json(merged)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def storable_json(value: Any) -> str:
    """JSON that any SQL text can hold: readable, with lone surrogates (undecodable bytes) and NUL escaped."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", _to_json(value))


def storable_request(query: bytes, body: bytes, *, whole: bool = True) -> str:
    """Query and body as JSON text, the first 64 KiB of both together; ``stored_request`` gives the bytes back."""
    kept_query = query[:BODY_LIMIT]
    kept_body = body[: BODY_LIMIT - len(kept_query)]
    texts = (part.decode("utf-8", "surrogateescape") for part in (kept_query, kept_body))
    kept: dict[str, Any] = dict(zip(("query", "body"), texts, strict=True))
    if not whole or (kept_query, kept_body) != (query, body):
        kept["cut"] = True
    return storable_json(kept)


def stored_request(payload: str) -> tuple[bytes, bytes]:
    """Query and body out of what ``storable_request`` made; raises ValueError for anything else.

    Raises Unreadable for one that was cut: its last value may be another than was said.
    """
    try:
        kept = json.loads(payload)
        if kept.get("cut"):
            raise Unreadable("body: was not kept whole")
        return kept["query"].encode("utf-8", "surrogateescape"), kept["body"].encode("utf-8", "surrogateescape")
    except (KeyError, TypeError, AttributeError):
        raise ValueError("is no request that was kept") from None


def _plain(value: Any) -> str:
    """A parameter's value as stripped text; raises ValueError for booleans, objects and lists."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError  # noqa: TRY004
    return str(value).strip()


def _read_fields(parameters: Parameters) -> tuple[dict[str, Any], list[str]]:
    """Our fields, and the names of the parameters that cannot be read: these count as not said."""
    fields: dict[str, Any] = {}
    unread: list[str] = []
    for theirs, ours, read in _PARAMETERS:
        value = parameters.first(theirs)
        if value is None:
            continue
        try:
            meant = read(_plain(value))
        except ValueError:
            unread.append(theirs)
        else:
            if fields.get(ours) is None:
                fields[ours] = meant
    return fields, unread


def _read_identity(parameters: Parameters) -> tuple[str, list[str]]:
    """The call's identity, and the identity parameters that cannot be read; raises Unreadable if none can."""
    said: list[str] = []
    unread: list[str] = []
    for name in _IDENTITIES:
        values = {_identity_or_none(value) for value in parameters.all(name)}
        if len(values) > 1:
            raise Unreadable(f"{name}: is given twice, with different values")
        for value in values:
            (unread if value is None else said).append(value or name)
    if not said:
        problem = f"must have 1 to {IDENTITY_LIMIT} visible ASCII characters" if unread else "is missing"
        raise Unreadable(f"{unread[0] if unread else _IDENTITIES[0]}: {problem}")
    return said[0], unread


def _identity_or_none(value: Any) -> str | None:
    try:
        return normalise_identity(_plain(value))
    except ValueError:
        return None


def _report(parameters: Parameters, reference_id: str, unread: list[str], **origin: Any) -> StatusReport:
    fields, unread_fields = _read_fields(parameters)
    return StatusReport(
        reference_id=reference_id,
        unread=",".join([*unread, *unread_fields]) or None,
        payload=parameters.as_json(),
        **fields,
        **origin,
    )


def parse_callback(
    query: bytes,
    body: bytes,
    content_type: str | None,
    *,
    report_id: UUID,
    received_at: datetime,
    remote_addr: str | None,
    clean: Callable[[str], str] = str,
) -> StatusReport:
    """The report in a request to the CallbackUrl; raises Unreadable. ``clean`` takes out of texts what none may hold.

    *documented*: a GET with a query string. *assumed*: POST with a form or a JSON object, and mixtures; body first.
    """
    if len(body) > BODY_LIMIT:
        raise Unreadable(f"body: is over {BODY_LIMIT // 1024} KiB")
    try:
        pairs = [*_read_body(body, content_type), *_read_form(query)]
        parameters = Parameters(pairs)
        # Looked for in all at once: hardly any has something to be taken out.
        if clean(parameters.as_json()) != parameters.as_json():
            parameters = Parameters((clean(name), _cleaned(value, clean)) for name, value in pairs)
        reference_id, unread = _read_identity(parameters)
        return _report(
            parameters,
            reference_id,
            unread,
            id=report_id,
            source="callback",
            received_at=received_at,
            remote_addr=remote_addr,
        )
    except RecursionError:
        raise Unreadable("body: is nested too deeply") from None


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {clean(name): _cleaned(inner, clean) for name, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, clean) for inner in value]
    text = str(value)
    cleaned = clean(text)
    return value if cleaned == text else cleaned


def _read_body(body: bytes, content_type: str | None) -> list[tuple[str, Any]]:
    content = body.removeprefix(_BOM).strip()
    kind = re.sub(r"[^ -~]", " ", content_type or "").strip().lower()
    if not content:
        return []
    if content.startswith(b"{") or re.match(r"[^;]*json", kind):
        return _read_object(content)
    if kind.startswith("multipart/"):
        return _read_multipart(body, content_type or "")
    return _read_form(content)


def _read_multipart(body: bytes, content_type: str) -> list[tuple[str, Any]]:
    """The parts' names and contents; raises Unreadable. Parts within a part stay its content: no form has them."""
    # The time over a header grows with the square of its semicolons.
    if body.count(b";") > _SEMICOLONS_AT_MOST:
        raise Unreadable("body: is a multipart form with too many semicolons")
    try:
        parts = _parts(body, content_type)
        if len(parts) <= _PARTS_AT_MOST:
            return [_read_part(part) for part in parts]
    except Exception:  # noqa: BLE001 - the parser fails in many ways on headers that no form has
        raise Unreadable("body: is a broken multipart form") from None
    raise Unreadable("body: is a multipart form with too many parts")


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """What stands between the boundaries; raises ValueError if there are none."""
    form = Message()
    form["Content-Type"] = content_type
    boundary = (form.get_boundary() or "").encode("latin-1")
    delimiter = rb"(?m:^|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r?\n|\Z)"
    _, *rest = re.split(delimiter, body)
    parts = [part for _, part in takewhile(lambda found: not found[0], zip(rest[::2], rest[1::2], strict=True))]
    if not (boundary and parts):
        raise ValueError
    return parts


def _read_part(part: bytes) -> tuple[str, str]:
    message = BytesParser().parsebytes(part, headersonly=True)
    content: Any = message.get_payload(decode=True)
    return str(message.get_param("name", "", "content-disposition")), content.decode("utf-8", "surrogateescape")


def _read_form(content: bytes) -> list[tuple[str, Any]]:
    text = content.decode("utf-8", "surrogateescape").removeprefix("?")  # seen: so the page prints its example
    return list(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))


class _Object(list[tuple[str, Any]]):
    """A JSON object with all of its pairs, repeated names included."""


def _read_object(content: bytes) -> list[tuple[str, Any]]:
    """The pairs of a JSON object; raises Unreadable. Numbers with a point stay text, so that no digit is lost."""
    try:
        pairs = json.loads(
            content.decode("utf-8", "surrogateescape"),
            object_pairs_hook=_Object,
            parse_int=lambda digits: int(digits) if len(digits) < 20 and digits != "-0" else digits,  # noqa: PLR2004
            parse_float=str,
            parse_constant=str,
        )
    except ValueError:
        raise Unreadable("body: is broken JSON") from None
    if not isinstance(pairs, _Object):
        raise Unreadable("body: must be one JSON object")
    return [(name, _as_plain_json(value)) for name, value in pairs]


def _as_plain_json(value: Any) -> Any:
    if isinstance(value, _Object):
        return {name: _as_plain_json(inner) for name, inner in value}
    if isinstance(value, list):
        return [_as_plain_json(inner) for inner in value]
    return value


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking GetSendStatus about one call.

    ``code`` is eSMS's code, or http-500 and the like, timeout, unreachable, unreadable, wrong-reference. ``heard``
    tells whether eSMS itself answered, be it nonsense. A report comes with the codes 100 and 99 only.
    ``retry_after`` is for how many seconds eSMS wants to be left alone (*assumed*: as HTTP has it).
    """

    reference_id: str
    code: str
    report: StatusReport | None = None
    heard: bool = True
    retry_after: float | None = None

    @property
    def too_fast(self) -> bool:
        """Whether eSMS wants to be asked more slowly. *documented*: 160; *assumed*: HTTP's ways to say it."""
        return self.code in {TOO_FAST, "http-429", "http-503"}

    @property
    def no_sign_of_life(self) -> bool:
        """Whether it may be that eSMS is down."""
        return self.code in {"unreachable", "timeout"} or self.code.startswith("http-5")

    @property
    def kind(self) -> Literal["final", "pending", "not_found", "failed"]:
        """What it means for the call."""
        if self.report:
            return "final" if self.report.final else "pending"
        return "not_found" if self.code in UNKNOWN_CALL else "failed"


def parse_lookup(reference_id: str, content: bytes, *, report_id: UUID, received_at: datetime) -> Answer:
    """The answer that GetSendStatus gave about ``reference_id``; whatever came, an Answer.

    *documented*: the code is CodeResponse in a success and CodeResult in a failure; types are unreliable; no price, no
    cid. *assumed*: a BOM and an absent ReferenceId are harmless.
    """
    try:
        parameters = Parameters(_read_object(content.removeprefix(_BOM).strip()))
        code = read_text(_plain(next((said for name in _CODES if (said := parameters.first(name)) is not None), None)))
        about = parameters.first("ReferenceId")
        of_all = code in ACCOUNT_REFUSED or code == TOO_FAST
        if about is not None and not of_all and _identity_or_none(about) != reference_id:
            return Answer(reference_id, "wrong-reference")
        if code not in {ACCEPTED, BLOCKED}:
            return Answer(reference_id, code)
        report = _report(
            parameters,
            reference_id,
            [],
            id=report_id,
            source="lookup",
            received_at=received_at,
            lookup_code=code,
        )
        return Answer(reference_id, code, report)
    except (Unreadable, ValueError, RecursionError):
        return Answer(reference_id, "unreadable")
