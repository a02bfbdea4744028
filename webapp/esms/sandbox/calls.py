"""The truth about the sandbox's calls: how each ends, and what happens to its callbacks and look-ups."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.esms.sandbox.options import Options

SEND_STATUS_WAITING, SEND_STATUS_SENT, SEND_STATUS_DONE = 2, 7, 5
"""In the order in which a call goes through them: *documented*."""
SEND_STATUS_REJECTED = (4, 6)
"""Of calls that never were made: 4 is *documented*, 6 (deleted) *seen*."""
LOOKUP_SPELLING = {"ANSWERED": "ANSWERED", "NOANSWERED": "NOANSWERED", None: "NOANSWERED"}
"""Outcomes in GetSendStatus: *documented*; a failed call (None) has the same one as an unanswered call."""
CHANNELS = {1: "advertising SMS", 2: "SMS", 23: "Viber", 24: "Zalo", 25: "Zalo", 26: "Zalo", 27: "Zalo"}
"""TypeId of messages that are no calls: *documented*."""

_IDENTITY_FORMS: dict[Callable[[str], str], int] = {
    str.lower: 94,
    str.upper: 2,
    lambda guid: guid + "87": 2,
    lambda guid: guid.replace("-", ""): 1,
    lambda guid: guid[:13] + guid[14:] + " ": 1,
}
"""What becomes of a GUID, in how many percent. The forms are *seen*; these and all frequencies below are *assumed*."""
_OUTCOMES = {"ANSWERED": 70, "NOANSWERED": 20, None: 10}
_KEYS = (None, None, "1", "1", "2", "0", "*", "#", "12")
_CIDS = ("02871002454", "02871002455", "02471002454")
_PRICE_PER_SECOND = Decimal("7.5")


@dataclass(frozen=True, kw_only=True)
class PlacedCall:
    """What eSMS says about one call once it is over, and what happens to its callbacks and look-ups.

    It follows from the seed and ``number`` alone, except ``placed_at`` and what the placing request gave.
    ``smsid`` is the identity as the placing answer spells it: a trailing space may follow. ``call_status`` is what the
    final callback says, in GetSendStatus's spelling, None for a failed call; GetSendStatus says ``lookup_status``.
    ``call_duration`` and ``ring_seconds`` (from one SendStatus to the next) are in seconds, ``price`` is in VND.
    A ``lost`` call sends no final callback; if it is also ``silent``, none at all. The fates from ``undetermined`` on
    are explained by the options of these names; ``repeat_price`` is the price of a second final callback.
    """

    number: int
    reference_id: str
    smsid: str
    phone: str
    request_id: str | None
    placed_at: datetime = field(compare=False)
    kind: Literal["voice", "otp"] = "voice"
    call_status: str | None
    lookup_status: str
    call_duration: int
    ivr: str | None
    price: Decimal
    cid: str
    sent_result: int
    send_status: int = SEND_STATUS_DONE
    ring_seconds: float
    lost: bool
    silent: bool
    doubled: bool
    late: bool
    undetermined: bool = False
    redialed: Literal["no answer first", "no answer last"] | None = None
    repeat_price: Decimal | None = None
    blocked: bool = False
    busy: bool = False
    old_template: bool = False
    slash: bool = False
    exact: bool = False
    other_channel: int | None = None


def draw_call(options: Options, number: int, *, phone: str = "", request_id: str = "") -> PlacedCall:
    """Call ``number`` of a campaign. Every draw is always made, so that one option changes nothing else of a call."""
    draw = random.Random(f"{options.seed}:{number}")  # noqa: S311 (to be repeatable, not secret)
    guid = str(UUID(int=draw.getrandbits(128), version=4))
    (form,) = draw.choices(list(_IDENTITY_FORMS), list(_IDENTITY_FORMS.values()))
    (outcome,) = draw.choices(list(_OUTCOMES), list(_OUTCOMES.values()))
    seconds, key, cid, digits = draw.randint(1, 90), draw.choice(_KEYS), draw.choice(_CIDS), draw.randrange(10**8)
    ring, lost, silent, doubled, late = (draw.random() for _ in range(5))
    answered, is_lost = outcome == "ANSWERED", lost < options.lost
    call = PlacedCall(
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
        price=_PRICE_PER_SECOND * seconds if answered else Decimal(0),
        cid=cid,
        sent_result=int(answered),
        ring_seconds=ring * options.ring,
        lost=is_lost,
        silent=is_lost and silent < 1 / 2,
        doubled=not is_lost and doubled < options.doubled,
        late=not is_lost and late < options.late,
    )
    return _with_oddities(call, options, random.Random(f"{options.seed}:{number}:odd"))  # noqa: S311


def _with_oddities(call: PlacedCall, options: Options, draw: random.Random) -> PlacedCall:
    """The call with what is odd about it; where two oddities contradict each other, the first counts."""
    names = ("otp", "undetermined", "redialed", "repriced", "rejected", "blocked", "busy", "old_template")
    odd = {name: draw.random() < getattr(options, name) for name in (*names, "slash", "exact", "other_channels")}
    first, status, channel = draw.random() < 1 / 2, draw.choice(SEND_STATUS_REJECTED), draw.choice(list(CHANNELS))
    changes: dict[str, Any] = {name: odd[name] for name in ("busy", "slash", "exact")}
    changes["other_channel"] = channel if odd["other_channels"] else None
    answered = call.call_status == "ANSWERED"
    if odd["otp"]:
        changes |= {"kind": "otp", "call_status": None, "call_duration": 0, "ivr": None}
        if odd["undetermined"]:
            changes |= {"undetermined": True, "lost": True, "silent": False, "doubled": False, "late": False}
    elif odd["rejected"]:
        changes |= {"send_status": status, "call_status": None, "lookup_status": "", "call_duration": 0, "ivr": None}
        changes |= {"price": Decimal(0), "sent_result": 0}
    else:
        changes["blocked"] = call.call_status is None and odd["blocked"]
        if odd["old_template"]:
            changes |= {"old_template": True, "late": False}
        if answered and not call.lost and odd["redialed"]:
            changes |= {"redialed": "no answer first" if first else "no answer last", "doubled": False}
    call = replace(call, **changes)
    if odd["repriced"] and call.price and not (call.lost or call.redialed):
        return replace(call, repeat_price=call.price + _PRICE_PER_SECOND, doubled=False)
    return call


def call_as_of(call: PlacedCall, send_status: int) -> PlacedCall:
    """The call as eSMS reports it at that SendStatus; before it is done, nothing else is known (*assumed*)."""
    if send_status == SEND_STATUS_DONE:
        return call
    nothing = replace(call, call_status=None, lookup_status="", call_duration=0, ivr=None, price=Decimal(0))
    return replace(nothing, sent_result=0, send_status=send_status)


def expected(call: PlacedCall) -> dict[str, Any]:
    """What a receiver must know in the end, when all callbacks came and every open call was looked up.

    Of a voice call, price and CID come by callback alone; where only progress was reported, by that.
    """
    looked_up = call.lost or call.redialed is not None
    known: dict[str, Any] = {
        "kind": call.kind,
        "phone": call.phone,
        "send_status": call.send_status,
        "sent_result": call.sent_result,
        "settled_by": "lookup" if call.lost else "callback",
        "price_conflict": call.repeat_price is not None,
    }
    if call.kind == "otp":
        nothing = dict.fromkeys(("call_status", "call_duration", "ivr", "cid"))
        outcome = "delivered" if call.sent_result else "unanswered"
        return known | nothing | {"price": call.price, "outcome": outcome}
    if call.old_template and not looked_up:
        known["send_status"] = None
    nothing_came = call.silent or (call.lost and call.old_template)
    rejected = call.send_status in SEND_STATUS_REJECTED
    return known | {
        "call_status": (call.lookup_status or None) if looked_up else call.call_status,
        "call_duration": call.call_duration,
        "ivr": call.ivr,
        "price": None if nothing_came else Decimal(0) if call.lost else call.price,
        "cid": None if nothing_came else call.cid,
        "outcome": "rejected" if rejected else "answered" if call.call_status == "ANSWERED" else "unanswered",
    }


def normalised(reference_id: str) -> str:
    """An identity as identities are compared: without surrounding space, in lower case."""
    return reference_id.strip().lower()
