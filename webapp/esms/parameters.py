"""Reads eSMS's parameters: their names, spellings and values become the fields of a StatusReport.

Facts are marked *documented* (the provider's pages), *seen* (in examples on
those pages) or *assumed*.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import uuid_utils.compat

from webapp.calls.report import FIELDS, StatusReport
from webapp.esms.finality import is_final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from webapp.calls.report import Kind, Source
TEXT_LIMIT = 200
IDENTITY_LIMIT = 128
BOM = b"\xef\xbb\xbf"
_LARGEST_INTEGER = 2_147_483_647
_DIGITS = len(str(_LARGEST_INTEGER))
_LARGEST_SMALL = 32_767
_LARGEST_PRICE = Decimal("9999999999.9999")
_PRICE_STEP = Decimal("0.0001")

_VISIBLE = re.compile(rf"[!-~]{{1,{IDENTITY_LIMIT}}}")
_BETWEEN_WORDS = re.compile(r"[\s_-]")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"([0-9]+)(?:\.0+)?")
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]{1,4})?")
_to_readable_json = json.JSONEncoder(ensure_ascii=False).encode

new_id: Callable[[], UUID] = uuid_utils.compat.uuid7
"""A UUIDv7, which sorts by the time at which it was made."""


class Unreadable(Exception):
    """A request or an answer is not a report. Its text names the parameter, and may be shown to the sender."""


def normalise_identity(text: str) -> str:
    """A ReferenceId or SMSID in its stored form: stripped, lower case; raises ValueError.

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
    """Text as it is, if it is short and has no control characters; raises ValueError."""
    if len(value) > TEXT_LIMIT or _CONTROL.search(value):
        raise ValueError(f"must be text of at most {TEXT_LIMIT} characters, without control characters")
    return value


def _integer(largest: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        found = _WHOLE.fullmatch(value)
        digits = found[1].lstrip("0") if found else None
        if digits is None or len(digits) > _DIGITS or (number := int(digits or "0")) > largest:
            raise ValueError
        return number

    return read


def _read_price(value: str) -> Decimal:
    if not _AMOUNT.fullmatch(value) or (price := Decimal(value)) > _LARGEST_PRICE:
        raise ValueError
    return price.quantize(_PRICE_STEP)


_small = _integer(_LARGEST_SMALL)
_large = _integer(_LARGEST_INTEGER)

_PARAMETERS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    # eSMS's name, our field if there is one, the function that reads it. Where two fill one field, the first counts.
    ("CallStatus", "call_status", lambda value: read_text(normalise_status(read_text(value)))),
    ("CallDuration", "call_duration", _large),
    ("Ivr", "ivr", read_text),
    ("SendStatus", "send_status", _small),
    ("SentResult", "sent_result", _small),
    ("SendSuccess", "sent_result", lambda value: 1 if _large(value) else None),  # documented: voice OTP
    ("SendFailed", "sent_result", lambda value: 0 if _large(value) else None),  # documented: voice OTP
    ("Price", "price", _read_price),
    ("TotalPrice", "price", _read_price),  # documented: voice OTP; also spelled Totalprice
    ("CID", "cid", read_text),
    ("RequestId", "request_id", read_text),  # documented: voice OTP
    ("phonenumber", "phone", read_text),  # documented: voice OTP
    ("TypeId", "", _large),  # documented: voice OTP and other channels; see ``other_channel``
)
_MESSAGE_FORM = ("SendSuccess", "SendFailed", "TotalPrice", "TypeId")
"""*documented*: voice OTP callbacks and other channels say these; callbacks of voice calls never do."""
_VOICE_OTP = 8
"""*documented*: TypeId of a voice OTP."""
_KNOWN = {
    name.lower()
    for name in (
        *(theirs for theirs, _, _ in _PARAMETERS),
        *_MESSAGE_FORM,
        "TotalReceiver",
        "TotalSent",
        "telcoid",
        "switchsmsid",
        "partnerids",
        "error_info",
        "oaid",
        "tempid",
        "CountRegenerate",
        "ErrorMessage",
        "CodeResponse",
        "CodeResult",
    )
}
_IDENTITIES = ("ReferenceId", "SMSID")
"""*documented*: voice OTP callbacks say SMSID. Where both are said, ReferenceId counts."""
_IDENTITY_NAMES = {name.lower() for name in _IDENTITIES}
KNOWN_PARAMETERS = frozenset({*_IDENTITIES, *(theirs for theirs, _, _ in _PARAMETERS)})
"""The names, as documented, of the parameters whose values are read."""
PHONE = "phonenumber"
"""The parameter that names the number called, in small letters."""
NOT_PHONES = frozenset((_KNOWN | _IDENTITY_NAMES) - {PHONE, "partnerids", "error_info", "errormessage"})
"""Parameters, in small letters, whose values are no numbers of people called, whatever they look like."""
_NOTHING = (None,)
NO_TEXT = "\0"
"""Stands for a value that is no text: booleans, objects and lists. No function that reads values takes it."""
_LONGEST_NAME, _MOST_NAMES = 64, 20
_DEEPEST = 100
"""Levels of JSON in a value; *assumed*: eSMS nests nothing."""


class Parameters:
    """Names and values as received, in their order; names are matched without case."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Keep every pair."""
        self._pairs = list(pairs)
        self._said: dict[str, list[str]] = {}
        for name, value in self._pairs:
            if text := value.strip() if isinstance(value, str) else _text_of(value):
                self._said.setdefault(name.strip().lower(), []).append(text)

    def all(self, name: str) -> list[str]:
        """The values that are not blank, stripped; NO_TEXT for one that is no text."""
        return self._said.get(name.lower(), [])

    def first(self, name: str) -> str | None:
        """The first value that is not blank, or None: *documented*, the CallbackUrl's own parameters are empty."""
        return self._said.get(name.lower(), _NOTHING)[0]

    def number(self, name: str) -> int | None:
        """The first value as a whole number; None if it is not said, or cannot be read."""
        said = self.first(name)
        try:
            return None if said is None else _large(said)
        except ValueError:
            return None

    @cached_property
    def json(self) -> str:
        """Everything, as a JSON object; a repeated name has the list of its values.

        The values of one parameter keep their order, in whatever spellings of its name they came.
        """
        merged = dict(self._pairs)
        return storable_json(merged if len(merged) == len(self._pairs) else self._with_lists())

    def unknown_names(self) -> list[str]:
        """The names of parameters with a value that eSMS is not known to send, each once, at most 20 of them."""
        said = {name.strip() for name, value in self._pairs if not is_blank(value)}
        # In the order of the payload, from which they are read again.
        names = (name.strip() for name, _ in self._pairs)
        unknown = dict.fromkeys(name for name in names if name in said and name.lower() not in _KNOWN | _IDENTITY_NAMES)
        shown = (_CONTROL.sub("", name).replace(",", "")[:_LONGEST_NAME] for name in unknown)
        return [name for name in shown if name][:_MOST_NAMES]

    def _with_lists(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        repeated: set[str] = set()
        last_spelling: dict[str, str] = {}
        for said, value in self._pairs:
            # A=1&a=2&A=3 is {"A": 1, "a": [2, 3]}: else the 3 would stand before the 2.
            name = last_spelling[said.strip().lower()] if said in merged else said
            last_spelling[name.strip().lower()] = name
            if name in repeated:
                merged[name].append(value)
            elif name in merged:
                merged[name] = [merged[name], value]
                repeated.add(name)
            else:
                merged[name] = value
        return merged


def kind_of(parameters: Parameters, source: Source, said: Mapping[str, Any]) -> Kind | None:
    """The kind of call that the form of a report shows. A look-up's answer that says nothing (99, say) shows none.

    *documented*: a voice OTP, and other channels, say SMSID in place of ReferenceId, counts of messages, TypeId.
    """
    if source == "lookup" and all(said.get(name) is None for name in FIELDS):
        return None
    named = parameters.first("SMSID") is not None and not _says_reference_id(parameters)
    return "otp" if named or any(parameters.first(name) is not None for name in _MESSAGE_FORM) else "voice"


def other_channel(parameters: Parameters) -> str | None:
    """The TypeId of an SMS, Viber or Zalo message, which is no call; None for a call."""
    number = None if _says_reference_id(parameters) else parameters.number("TypeId")
    return None if number in {None, _VOICE_OTP} else str(number)


def _says_reference_id(parameters: Parameters) -> bool:
    """Whether ReferenceId has a value that can be read; else it counts as not said."""
    said = parameters.first("ReferenceId")
    return said is not None and identity_or_none(said) is not None


def esms_id(parameters: Parameters) -> str | None:
    """The identity as eSMS spelled it."""
    said = (value for name in _IDENTITIES for value in parameters.all(name))
    return next((value for value in said if identity_or_none(value) is not None), None)


def form_of(parameters: Parameters, source: Source, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a report shows beside its fields: whether it is final, its kind, and the id as spelled."""
    return {
        "final": is_final(
            send_status=said.get("send_status"),
            call_status=said.get("call_status"),
            sent_result=said.get("sent_result"),
            undetermined=all(parameters.number(name) == 0 for name in ("SendSuccess", "SendFailed")),
        ),
        "kind": kind_of(parameters, source, said),
        "esms_id": esms_id(parameters),
    }


def _text_of(value: Any) -> str:
    """A value that is no text, as text."""
    if value is None:
        return ""
    return str(value) if type(value) in {int, float} else NO_TEXT


def is_blank(value: Any) -> bool:
    """Whether a value says nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def storable_json(value: Any) -> str:
    """JSON that any SQL text can hold: readable, with lone surrogates (undecodable bytes) and NUL escaped."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", _to_readable_json(value))


def json_object(pairs: Iterable[tuple[str, Any]]) -> str:
    """The same of an object whose names may be repeated."""
    return "{" + ", ".join(f"{storable_json(name)}: {storable_json(value)}" for name, value in pairs) + "}"


def _read_fields(parameters: Parameters) -> tuple[dict[str, Any], list[str]]:
    """Our fields, and the names of the parameters that cannot be read: these count as not said."""
    fields: dict[str, Any] = {}
    unread: list[str] = []
    for theirs, ours, read in _PARAMETERS:
        value = parameters.first(theirs)
        if value is None:
            continue
        try:
            meant = read(value)
        except ValueError:
            unread.append(theirs)
        else:
            if ours and fields.get(ours) is None:
                fields[ours] = meant
    return fields, unread


def redacted_parameters(pairs: Iterable[tuple[str, Any]], redact: Callable[[str], str]) -> Parameters:
    """The parameters without secrets: ``redact`` takes them out of texts."""
    return Parameters((redact(name), _redacted(value, redact)) for name, value in pairs)


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {redact(name): _redacted(inner, redact) for name, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner, redact) for inner in value]
    text = str(value)
    redacted = redact(text)
    return value if redacted == text else redacted


def read_identity(parameters: Parameters) -> tuple[str, list[str]]:
    """The call's identity, and the identity parameters that cannot be read; raises Unreadable if none can."""
    said: list[str] = []
    unread: list[str] = []
    for name in _IDENTITIES:
        values = {identity_or_none(value) for value in parameters.all(name)}
        if len(values) > 1:
            raise Unreadable(f"{name}: is given twice, with different values")
        for value in values:
            (unread if value is None else said).append(value or name)
    if not said:
        problem = f"must have 1 to {IDENTITY_LIMIT} visible ASCII characters" if unread else "is missing"
        raise Unreadable(f"{unread[0] if unread else _IDENTITIES[0]}: {problem}")
    return said[0], unread


def identity_or_none(value: str) -> str | None:
    """The identity in its stored form; None if the value is none."""
    try:
        return normalise_identity(value)
    except ValueError:
        return None


def build_report(parameters: Parameters, reference_id: str, unread: list[str], **origin: Any) -> StatusReport:
    """The report that the parameters say; ``unread`` are names of identity parameters that cannot be read."""
    fields, unread_fields = _read_fields(parameters)
    unread = [*unread, *unread_fields]
    if origin["source"] == "callback" and not fields and not unread:
        unread = parameters.unknown_names()
    return StatusReport(
        reference_id=reference_id,
        unread=",".join(unread) or None,
        payload=parameters.json,
        **fields,
        **form_of(parameters, origin["source"], fields),
        **origin,
    )


class _Object(list[tuple[str, Any]]):
    """A JSON object with all of its pairs, repeated names included."""


def read_json_object(content: bytes, *, strict: bool = False) -> list[tuple[str, Any]]:
    """The pairs of a JSON object; raises Unreadable. A number that Python would write otherwise stays text.

    So no digit is lost: ``450.0000``, ``1E5`` or twenty digits are text.

    ``strict``: an object with a repeated name (whatever its case) and the numbers NaN and Infinity are unreadable, too.
    """
    try:
        pairs = json.loads(
            content.decode("utf-8", "surrogateescape"),
            object_pairs_hook=_object_without_repetition if strict else _Object,
            parse_int=lambda digits: int(digits) if len(digits) < 20 and digits != "-0" else digits,  # noqa: PLR2004
            parse_float=_number_or_text,
            parse_constant=_no_number if strict else str,
        )
    except ValueError:
        raise Unreadable("body: is broken JSON") from None
    if not isinstance(pairs, _Object):
        raise Unreadable("body: must be one JSON object")
    return [(name, _as_plain_json(value, 1)) for name, value in pairs]


def _object_without_repetition(pairs: list[tuple[str, Any]]) -> _Object:
    if len({name.strip().lower() for name, _ in pairs}) < len(pairs):
        raise ValueError
    return _Object(pairs)


def _number_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if str(number) == digits else digits


def _no_number(_: str) -> NoReturn:
    raise ValueError


def _as_plain_json(value: Any, depth: int) -> Any:
    # One limit for all who read it: each step into a value takes more of Python's stack than parsing does.
    if depth > _DEEPEST:
        raise Unreadable("body: is nested too deeply")
    if isinstance(value, _Object):
        return {name: _as_plain_json(inner, depth + 1) for name, inner in value}
    if isinstance(value, list):
        return [_as_plain_json(inner, depth + 1) for inner in value]
    return value
