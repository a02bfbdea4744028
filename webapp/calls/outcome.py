"""One closed word for how a call ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from webapp.calls.rule import Call

Outcome = Literal["given_up", "missing", "answered", "unanswered", "other", "rejected", "delivered", "unknown"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
OUTCOMES_OF_SETTLED = tuple(word for word in OUTCOMES if word not in {"given_up", "missing"})


def outcome(call: Call, rejected: tuple[int, ...]) -> Outcome:
    """The first that fits; ``rejected`` are the SendStatus of calls that eSMS rejected or deleted."""
    if not call.settled:
        return "given_up" if call.gave_up_at else "missing"
    if call.call_status is not None:
        return {"ANSWERED": "answered", "NOANSWERED": "unanswered"}.get(call.call_status, "other")  # type: ignore[return-value]
    if call.send_status in rejected:
        return "rejected"
    if call.sent_result == 0:
        return "unanswered"
    return "delivered" if call.sent_result == 1 else "unknown"
