"""The parameters of `GET /api/calls`: how each is read, and how it is described in `/api/openapi.json`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from werkzeug.exceptions import BadRequest

from webapp.calls.outcome import OUTCOMES
from webapp.calls.report import KINDS
from webapp.esms.parameters import normalise_identity, normalise_status
from webapp.storage.filters import CallFilter
from webapp.storage.reader import Position
from webapp.storage.types import iso
from webapp.support.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.datastructures import MultiDict

_DEFAULT_LIMIT = 100
_LARGEST_PAGE = 1000
_UTC = ZoneInfo("UTC")
_YES_NO = {"1": True, "true": True, "0": False, "false": False}


class Page(NamedTuple):
    """Which calls are wanted, behind which one the page begins (None: at the newest), and how many it has at most."""

    wanted: CallFilter
    after: Position | None
    limit: int


class Parameter(NamedTuple):
    """``read`` raises ValueError; ``schema`` is the JSON Schema of what it reads."""

    description: str
    read: Callable[[str, ZoneInfo], Any]
    schema: dict[str, Any] = {"pattern": r"^[^\x00]*$"}  # noqa: RUF012 - never changed


def read_page(arguments: MultiDict[str, str], zone: ZoneInfo) -> Page:
    """The query string of `GET /api/calls`; blank values count as absent. Raises BadRequest, naming the parameter."""
    unknown = sorted(arguments.keys() - PARAMETERS.keys())
    if unknown:
        raise BadRequest(f"{unknown[0]!r:.60}: is not a parameter; there are {', '.join(sorted(PARAMETERS))}.")
    read: dict[str, Any] = {}
    for name, values in arguments.lists():
        said = {stripped for value in values if (stripped := value.strip())}
        if len(said) > 1:
            raise BadRequest(f"{name}: is given several times; only one value is read.")
        for value in said:
            try:
                read[name] = PARAMETERS[name].read(value, zone)
            except ValueError as error:
                raise BadRequest(f"{name}: {error}.") from None
    after, limit = read.pop("cursor", None), read.pop("limit", _DEFAULT_LIMIT)
    outcome = read.pop("outcome", None)
    return Page(CallFilter(outcomes=outcome and (outcome,), **read), after, limit)


def cursor(position: Position) -> str:
    """The value of ``cursor`` for the page behind this position."""
    return base64.urlsafe_b64encode(f"{iso(position.placed_at)} {position.reference_id}".encode()).decode()


def _read_text(value: str, _: ZoneInfo) -> str:
    if "\0" in value:
        raise ValueError("must not hold NUL")
    return value


def _reads_one_of(words: tuple[str, ...]) -> Callable[[str, ZoneInfo], str]:
    def read(value: str, _: ZoneInfo) -> str:
        if value.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value.lower()

    return read


def _yes_no(value: str, _: ZoneInfo) -> bool:
    if value.lower() not in _YES_NO:
        raise ValueError("must be 1, true, 0 or false")
    return _YES_NO[value.lower()]


def _limit(value: str, _: ZoneInfo) -> int:
    few_digits = value.isascii() and value.isdigit() and len(value) <= len(str(_LARGEST_PAGE))
    if not (few_digits and 1 <= int(value) <= _LARGEST_PAGE):
        raise ValueError(f"must be a whole number from 1 to {_LARGEST_PAGE}")
    return int(value)


def _position(value: str, _: ZoneInfo) -> Position:
    try:
        placed_at, reference_id = base64.urlsafe_b64decode(value).decode("ascii").split(" ")
        return Position(parse_time(placed_at, _UTC), normalise_identity(reference_id))
    except ValueError:
        raise ValueError("is not the `next` of an earlier answer") from None


_TIME = {"format": "date-time"}
_FLAG = {"enum": list(_YES_NO)}
PARAMETERS = {
    "outcome": Parameter("only calls with this outcome", _reads_one_of(OUTCOMES), {"enum": list(OUTCOMES)}),
    "status": Parameter(
        "only calls with this `call_status`: `ANSWERED`, `NOANSWERED` or another word of eSMS",
        lambda value, zone: normalise_status(_read_text(value, zone)),
    ),
    "ivr": Parameter("only calls of which the callee pressed just these keys", _read_text),
    "campaign": Parameter("only calls of this campaign", _read_text),
    "phone": Parameter(
        "only calls to this number, however it is written: `0901 888 484`, `+84901888484`; hashed ones, too", _read_text
    ),
    "request_id": Parameter("only calls with this RequestId", _read_text),
    "kind": Parameter("only voice calls, or only voice OTP calls", _reads_one_of(KINDS), {"enum": list(KINDS)}),
    "since": Parameter(
        "only calls placed at this time or later; ISO 8601, or `23/11/2026 14:30`, without a zone in `TIME_ZONE`",
        parse_time,
        _TIME,
    ),
    "until": Parameter("only calls placed before this time", parse_time, _TIME),
    "missing": Parameter("`1` or `true`: only missing calls; `0` or `false`: only others", _yes_no, _FLAG),
    "conflict": Parameter("`1` or `true`: only calls in conflict; `0` or `false`: only others", _yes_no, _FLAG),
    "cursor": Parameter(
        "`next` of the page before, which is null on the last page; without it the newest calls", _position
    ),
    "limit": Parameter(
        f"calls a page, 1 to {_LARGEST_PAGE}; {_DEFAULT_LIMIT} by default",
        _limit,
        {"type": "integer", "minimum": 1, "maximum": _LARGEST_PAGE, "default": _DEFAULT_LIMIT},
    ),
}
"""All of them, by name."""
