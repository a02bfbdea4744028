"""The truth about the sandbox's calls: how each ends, and what happens to its callbacks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.esms.sandbox.options import Options

WAITING, SENT, DONE = 2, 7, 5
"""SendStatus, in the order in which a call goes through it: *documented*."""
LOOKUP_SPELLING = {"ANSWERED": "ANSWERED", "NOANSWERED": "NOANSWERED", None: "NOANSWERED"}
"""Outcomes in GetSendStatus: *documented*; a failed call (None) has the same one as an unanswered call."""

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
    """What eSMS says about one call once it is over, and what happens to its callbacks.

    It follows from the seed and ``number`` alone, except ``placed_at`` and what the placing request gave.
    ``smsid`` is the identity as the placing answer spells it: a trailing space may follow. ``call_status`` is what the
    final callback says, in GetSendStatus's spelling, None for a failed call; GetSendStatus says ``lookup_status``.
    ``call_duration`` and ``ring_seconds`` (from one SendStatus to the next) are in seconds, ``price`` is in VND.
    A ``lost`` call sends no final callback; if it is also ``silent``, none at all.
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
    """Call ``number`` of a campaign. Every draw is always made, so that one option changes nothing else of a call."""
    draw = random.Random(f"{options.seed}:{number}")  # noqa: S311 (to be repeatable, not secret)
    guid = str(UUID(int=draw.getrandbits(128), version=4))
    (form,) = draw.choices(list(_IDENTITY_FORMS), list(_IDENTITY_FORMS.values()))
    (outcome,) = draw.choices(list(_OUTCOMES), list(_OUTCOMES.values()))
    seconds, key, cid, digits = draw.randint(1, 90), draw.choice(_KEYS), draw.choice(_CIDS), draw.randrange(10**8)
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
        price=_PRICE_PER_SECOND * seconds if answered else Decimal(0),
        cid=cid,
        sent_result=int(answered),
        ring_seconds=ring * options.ring,
        lost=is_lost,
        silent=is_lost and silent < 1 / 2,
        doubled=not is_lost and doubled < options.doubled,
        late=not is_lost and late < options.late,
    )


def as_of(call: PlacedCall, send_status: int) -> PlacedCall:
    """The call as eSMS reports it at that SendStatus; before it is done, nothing else is known (*assumed*)."""
    if send_status == DONE:
        return call
    nothing = replace(call, call_status=None, lookup_status="", call_duration=0, ivr=None, price=Decimal(0))
    return replace(nothing, sent_result=0, send_status=send_status)


def normalised(reference_id: str) -> str:
    """An identity as identities are compared: without surrounding space, in lower case."""
    return reference_id.strip().lower()
