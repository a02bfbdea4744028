"""The fortnight of the demo: which calls were placed, what eSMS said about them and when. The same for the same seed.

Campaigns have business hours, habits and keys; callbacks are late, doubled or lost; some calls need a person's look.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from webapp.esms.sandbox.calls import (
    LOOKUP_SPELLING,
    SEND_STATUS_DONE,
    SEND_STATUS_SENT,
    SEND_STATUS_WAITING,
    PlacedCall,
    draw_call,
)
from webapp.esms.sandbox.forms import callbacks_of, other_channel_message
from webapp.esms.sandbox.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from zoneinfo import ZoneInfo

SEED = 7
DAYS = 14
STORY, PHONE = "066107ee-6ec4-4283-b595-aa74977c65c5", "0901888484"
"""The call and the phone of the statements in docs/data.md."""
ESMS, STRANGER = "203.0.113.10", "198.51.100.66"
_SATURDAY = 5
_BUSY_WEEKEND = 0.5
_OUTAGE = 6, time(14, 10), time(15, 20)
"""How many days ago, and when, no callback reached the receiver."""
_SLOW = 3, time(16), time(18)
"""How many days ago, and when, eSMS sent its callbacks late."""
_HABIT = {8: 0.9, 12: 0.75, 13: 0.8, 17: 1.05, 18: 1.15, 19: 1.2, 20: 1.1, 21: 0.9}
"""How much more, or less, people answer at some hours."""
_VOICE_PRICE, _OTP_PRICE = Decimal(450), Decimal(470)
"""VND for each begun minute, and for each OTP."""


@dataclass(frozen=True)
class Campaign:
    """``calls`` on a usual working day, spread over ``hours`` by weight; on Saturdays and Sundays ``weekend`` of them.

    ``answered`` is a share, ``seconds`` the median talk time; ``keys`` are weighed.
    """

    name: str | None
    calls: int
    hours: dict[int, int]
    weekend: float
    answered: float
    seconds: float
    keys: dict[str | None, int]
    otp: bool = False


CAMPAIGNS = (
    Campaign(
        *("Nhắc lịch hẹn khám", 95, {8: 5, 9: 9, 10: 7, 11: 3, 14: 6, 15: 6, 16: 3}, 0.15, 0.74, 24),
        keys={"1": 62, "2": 14, "0": 3, None: 21},
    ),
    Campaign(
        *("Xác nhận đơn hàng", 120, {9: 6, 10: 8, 11: 6, 12: 3, 14: 6, 15: 7, 16: 8, 17: 6, 18: 5, 19: 4}, 0.8, 0.66),
        seconds=17,
        keys={"1": 55, "2": 9, "0": 6, "*": 2, None: 28},
    ),
    Campaign(
        *("Nhắc thanh toán cước", 80, {9: 5, 10: 9, 11: 5, 14: 8, 15: 8, 16: 5}, 0, 0.58, 31),
        keys={"1": 21, "9": 4, None: 75},
    ),
    Campaign(
        *("Khảo sát hài lòng", 45, {17: 4, 18: 9, 19: 10, 20: 6}, 1.3, 0.47, 52),
        keys={"5": 31, "4": 24, "3": 11, "2": 4, "1": 6, "12": 2, None: 22},
    ),
    Campaign(
        *("Mã OTP đăng nhập", 60, {**dict.fromkeys(range(7, 23), 4), 6: 1, 23: 2, 0: 1}, 0.9, 0.93, 0),
        keys={None: 1},
        otp=True,
    ),
    Campaign(None, 12, {9: 3, 10: 3, 11: 2, 14: 3, 15: 2, 16: 2}, 0.2, 0.63, 40, {None: 1}),
)


class Registered(NamedTuple):
    """A call is registered at this time, with these fields of ``POST /api/calls``."""

    at: datetime
    fields: dict[str, str]


class Callback(NamedTuple):
    """A callback with this query string arrives from this address."""

    at: datetime
    query: str
    remote_addr: str = ESMS


@dataclass
class Fortnight:
    """``calls`` is the truth that look-ups tell, but for those that ``faults`` says: ids and what eSMS answers."""

    calls: list[PlacedCall] = field(default_factory=list)
    registered: list[Registered] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, call: PlacedCall, campaign: str | None, *, registered: bool = True) -> None:
        """Add a call with its callbacks."""
        self.calls.append(call)
        if registered:
            fields = {"reference_id": call.smsid, "phone": call.phone, "placed_at": call.placed_at.isoformat()}
            fields |= {"kind": call.kind} | ({"campaign": campaign} if campaign else {})
            self.registered.append(Registered(call.placed_at + timedelta(seconds=2), fields))
        self.callbacks += _callbacks(call)


def fortnight(now: datetime, zone: ZoneInfo, *, share: float = 1.0) -> Fortnight:
    """The fourteen days before today and today until now, by the clocks of ``zone``; ``share`` of the calls."""
    made = Fortnight()
    today = now.astimezone(zone).date()
    for days_ago in range(DAYS, -1, -1):
        for campaign in CAMPAIGNS:
            for number, placed_at in enumerate(
                _times(campaign, today - timedelta(days=days_ago), days_ago, zone, share)
            ):
                if placed_at < now:
                    _add_call(made, campaign, placed_at, days_ago, number, zone)
    _add_story(made, datetime.combine(today - timedelta(days=2), time(9, 41), zone))
    _add_strangers(made, datetime.combine(today - timedelta(days=1), time(11, 2), zone))
    made.registered = sorted(one for one in made.registered if one.at <= now)
    made.callbacks = sorted(one for one in made.callbacks if one.at <= now)
    return made


def _times(campaign: Campaign, day: date, days_ago: int, zone: ZoneInfo, share: float) -> Iterator[datetime]:
    draw = random.Random(f"{SEED}:{days_ago}:{campaign.name}")
    usual = campaign.calls * (campaign.weekend if day.weekday() >= _SATURDAY else 1)
    hours = draw.choices(list(campaign.hours), list(campaign.hours.values()), k=round(usual * draw.uniform(0.85, 1.15)))
    for hour in sorted(hours[: math.ceil(len(hours) * share)]):
        seconds = draw.uniform(0, 3599)
        yield (datetime.combine(day, time(hour), zone) + timedelta(seconds=seconds)).astimezone(UTC)


def _add_call(
    made: Fortnight, campaign: Campaign, placed_at: datetime, days_ago: int, number: int, zone: ZoneInfo
) -> None:
    """Add one call of a campaign, and what is odd about it."""
    draw = random.Random(f"{SEED}:{days_ago}:{campaign.name}:{number}")
    call = _ended(_drawn(made, draw, placed_at), campaign, draw, placed_at.astimezone(zone).hour)
    local = placed_at.astimezone(zone).time()
    outage = days_ago == _OUTAGE[0] and _OUTAGE[1] <= local < _OUTAGE[2]
    odd = {name: draw.random() for name in ("lost", "silent", "doubled", "late", "redialed", "rejected", "registered")}
    answered = call.call_status == "ANSWERED"
    if outage:
        call = replace(call, lost=True, silent=True)
    elif odd["lost"] < 0.02:
        call = replace(call, lost=True, silent=odd["silent"] < 0.5)
    elif odd["rejected"] < 0.02 and not campaign.otp:
        call = replace(call, send_status=4, call_status=None, lookup_status="", call_duration=0, ivr=None)
        call = replace(call, price=Decimal(0), sent_result=0)
    elif answered and odd["redialed"] < 0.012:
        call = replace(call, redialed="no answer first")
    elif odd["doubled"] < 0.03:
        call = replace(call, doubled=True)
    elif odd["late"] < 0.02:
        call = replace(call, late=True)
    call = _needing_a_look(made, call, campaign, days_ago, number)
    made.add(call, campaign.name, registered=outage or (campaign.name is not None and odd["registered"] > 0.01))
    if odd["registered"] > 0.992:
        made.callbacks += _other_channel(replace(call, other_channel=draw.choice((2, 24, 1))))


def _drawn(made: Fortnight, draw: random.Random, placed_at: datetime) -> PlacedCall:
    number = len(made.calls)
    phone = PHONE if number % 611 == 5 else f"0{draw.choice((32, 56, 70, 83, 90, 97, 98))}{draw.randrange(10**7):07}"
    return replace(draw_call(Options(seed=SEED), number, phone=phone), placed_at=placed_at)


def _ended(call: PlacedCall, campaign: Campaign, draw: random.Random, hour: int) -> PlacedCall:
    """The call as its campaign's calls end at that hour."""
    answered = draw.random() < campaign.answered * (1 if campaign.otp else _HABIT.get(hour, 1))
    talk = max(2, min(290, round(campaign.seconds * draw.lognormvariate(0, 0.55)))) if campaign.seconds else 0
    (key,) = draw.choices(list(campaign.keys), list(campaign.keys.values()))
    unanswered = draw.choice(("NOANSWERED", "NOANSWERED", None))
    ends: dict[str, Any] = {"ring_seconds": draw.uniform(4, 22), "sent_result": int(answered)}
    if campaign.otp:
        ends |= {"kind": "otp", "call_status": None, "call_duration": 0, "ivr": None, "price": _OTP_PRICE * answered}
        return replace(call, **ends)
    status = "ANSWERED" if answered else unanswered
    ends |= {"call_status": status, "lookup_status": LOOKUP_SPELLING[status]}
    ends |= {"call_duration": talk * answered, "ivr": key if answered else None}
    return replace(call, **ends, price=_VOICE_PRICE * math.ceil(talk / 60) * answered)


def _needing_a_look(made: Fortnight, call: PlacedCall, campaign: Campaign, days_ago: int, number: int) -> PlacedCall:
    """Calls that eSMS does not know, has not finished, or says nothing about although callbacks disagree."""
    reference_id = call.reference_id.lower()
    if campaign.otp or campaign.name is None:
        return call
    if days_ago in {5, 8} and number == 7 and campaign in CAMPAIGNS[:2]:
        made.faults[reference_id] = "105"
        return replace(call, lost=True, silent=True)
    if days_ago <= 1 and number % 29 == 3:
        made.faults[reference_id] = "not-final"
        return replace(call, lost=True, silent=False, redialed=None)
    if days_ago == 1 and number == 11 and campaign.weekend >= _BUSY_WEEKEND:
        made.faults[reference_id] = "nothing-said"
        return replace(_answered(call), redialed="no answer last")
    return call


def _answered(call: PlacedCall) -> PlacedCall:
    """The call as one that was answered, with nothing odd about it."""
    ends: dict[str, Any] = {"call_status": "ANSWERED", "lookup_status": "ANSWERED", "call_duration": 31, "ivr": "1"}
    ends |= dict.fromkeys(("lost", "silent", "doubled", "late"), False)
    return replace(call, **ends, send_status=SEND_STATUS_DONE, sent_result=1, price=_VOICE_PRICE, redialed=None)


def _callbacks(call: PlacedCall) -> Iterator[Callback]:
    """The call's callbacks, each with a believable delay."""
    draw = random.Random(f"{SEED}:{call.reference_id}:delays")
    ring, talk = call.ring_seconds, call.call_duration
    due = {SEND_STATUS_WAITING: 1.0, SEND_STATUS_SENT: ring, SEND_STATUS_DONE: ring + talk}
    finals = 0
    for said in callbacks_of(call):
        seconds = due[said.due_at] + draw.lognormvariate(1, 0.7) + draw.uniform(20, 90) * said.late
        if said.due_at == SEND_STATUS_DONE and not said.late:
            seconds += 45.0 * finals + (draw.uniform(60, 900) if draw.random() < 0.03 else 0)
            finals += 1
        yield Callback(call.placed_at + timedelta(seconds=seconds), urlencode(said.parameters))


def _other_channel(call: PlacedCall) -> Iterator[Callback]:
    message = other_channel_message(call)
    yield Callback(call.placed_at + timedelta(seconds=20), urlencode(message.parameters))


def _add_story(made: Fortnight, placed_at: datetime) -> None:
    """Add the call of docs/data.md: repeated, late, with a forged price and a outcome that a look-up refutes."""
    call = _answered(draw_call(Options(seed=SEED), len(made.calls), phone=PHONE))
    call = replace(call, reference_id=STORY, smsid=STORY, placed_at=placed_at.astimezone(UTC), ring_seconds=12.0)
    made.add(replace(call, late=True, doubled=True), "Xác nhận đơn hàng")
    for minutes, said in (
        (4, {"CallStatus": "ANSWERED", "CallDuration": "31", "Price": "45000.0000"}),
        (6, {"CallStatus": "NO ANSWER", "CallDuration": "0", "Price": "0.0000"}),
    ):
        query = urlencode({"ReferenceId": STORY} | said | {"SendStatus": "5"})
        made.callbacks.append(Callback(call.placed_at + timedelta(minutes=minutes), query, STRANGER))


def _add_strangers(made: Fortnight, at: datetime) -> None:
    """Add what cannot be read: a CallbackUrl without the ReferenceId."""
    for minutes in (0, 3, 9):
        query = "CallDuration=12&CallStatus=ANSWERED&Ivr=1&Price=450.0000&SentResult=1&SendStatus=5"
        made.callbacks.append(Callback((at + timedelta(minutes=minutes)).astimezone(UTC), query))
