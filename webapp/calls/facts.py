"""What the figures count of a call: the fields that matter to them, and the classes of talk time and delays.

Pure values and functions, as the rule.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from webapp.calls.rule import Call

TALK_EDGES = (*range(5, 121, 5), 150, 180, 240, 300, 600, 1800, 3600, 2**31 - 1)
"""Upper edges, in seconds, of the classes of talk time: equal up to two minutes; the last holds whatever is longer."""
DELAY_EDGES = (
    *(1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200),
    *(1800, 3600, 7200, 14400, 28800, 86400, 172800, 259200, 10**12),
)
"""Upper edges, in seconds, of the classes of callback delay; the last holds whatever is longer."""
WITH_OUTCOME = ("answered", "unanswered", "other")
"""The outcomes of which the answered share is one part."""


def counted(call: Call) -> tuple[Any, ...]:
    """All of a call that the figures depend on: calls with the same value count alike.

    Of a time of which they need only whether there is one, only that.
    """
    return (
        *(call.placed_at, call.campaign, call.callback_at, call.settled_at is None, call.gave_up_at is None),
        *(call.call_status, call.call_duration, call.ivr, call.send_status, call.sent_result, call.price),
        *(call.settled_by, call.conflict, call.confirmed_at is None, call.registered_at is None),
    )


def hour_of(moment: datetime) -> datetime:
    """The beginning of its hour, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def percentile(classes: Iterable[tuple[int, int]], percent: int) -> int | None:
    """The upper edge of the class with this percentile, of (upper edge, number) pairs; None: of nothing.

    The smallest edge up to which at least ``percent`` of 100 lie.
    """
    in_order = sorted(classes)
    total = sum(number for _, number in in_order)
    up_to_here = 0
    for edge, number in in_order:
        up_to_here += number
        if up_to_here and up_to_here * 100 >= total * percent:
            return edge
    return None
