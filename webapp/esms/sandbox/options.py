"""How the sandbox behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from webapp.esms.sandbox.faults import checked_fault

OptionKind = Literal["share", "pause", "timeout", "number", "at least one"]
"""What an option takes: a part of one, seconds from 0, seconds above 0, a whole number from 0, or one from 1."""


def _option(default: float, kind: OptionKind, text: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": text})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command are made from these fields."""

    seed: int = _option(
        0, "number", "The same seed gives the same calls with the same fates.  [default: random, printed]"
    )
    lost: float = _option(0.0, "share", "Calls whose final callback is never sent; half of them send none at all.")
    doubled: float = _option(0.0, "share", "Calls, of those not lost, whose final callback is sent twice.")
    late: float = _option(0.0, "share", "Calls, of those not lost, whose final callback comes before a progress one.")
    late_by: float = _option(1.0, "pause", "How long after the final callback that progress one comes.")
    otp: float = _option(0.0, "share", "Voice OTP calls: other callbacks, and only the message API knows them.")
    undetermined: float = _option(
        0.0, "share", "Voice OTP calls whose last callback counts nothing sent, nothing failed."
    )
    redialed: float = _option(0.0, "share", "Answered calls with two final callbacks, NO ANSWER first or last.")
    repriced: float = _option(0.0, "share", "Calls with a price whose final callback comes again with another one.")
    rejected: float = _option(0.0, "share", "Calls that are rejected or deleted: SendStatus 4 or 6.")
    blocked: float = _option(0.0, "share", "Failed calls that GetSendStatus answers with code 99, and the outcome.")
    busy: float = _option(0.0, "share", "Calls whose first look-up is answered with code 99, and nothing else.")
    old_template: float = _option(0.0, "share", "Calls with a CallbackUrl of before 2024: one callback, no SendStatus.")
    slash: float = _option(0.0, "share", "Calls whose CallbackUrl has a slash behind its path.")
    exact: float = _option(0.0, "share", "Calls that GetSendStatus knows only by the id exactly as eSMS spelled it.")
    other_channels: float = _option(0.0, "share", "Calls beside which an SMS, Viber or Zalo message is reported, too.")
    ring: float = _option(0.0, "pause", "Longest time from one SendStatus to the next; drawn for each call.")
    pace: int = _option(0, "number", "Calls of a campaign that begin each second; 0: all at once.")
    retry_wait: float = _option(1.0, "pause", "Pause before a callback that was not answered 200 is sent again.")
    callback_timeout: float = _option(10.0, "timeout", "Longest wait for the answer to a callback.")
    senders: int = _option(16, "at least one", "Callbacks in flight at a time.")
    latency: float = _option(0.0, "pause", "Pause before each GetSendStatus answer.")
    closing: float = _option(0.0, "share", "Look-ups on a kept connection at which it ends, without any answer.")
    error_rate: float = _option(0.0, "share", "GetSendStatus answers that are faults.")
    rate_limit: int = _option(0, "number", "GetSendStatus answers a second, code 160 above it; 0: no limit.")
    faults: tuple[str, ...] = ()
    """What ``error_rate`` draws from: names of ``FAULTS``; empty: all of them."""
    api_key: str = ""
    secret_key: str = ""
    """The keys that are accepted; empty: any that are not empty."""

    def __post_init__(self) -> None:
        for fault in self.faults:
            checked_fault(fault)
