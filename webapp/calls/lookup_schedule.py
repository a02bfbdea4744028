"""Says when eSMS is asked about a call again, and when that ends: after 5 minutes, doubling up to 6 hours.

Pure: time comes in as ``now``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.calls.rule import Call

CONFLICT_PAUSE = timedelta(minutes=5)
"""From a new conflict to its first look-up."""
FIRST_PAUSE = timedelta(minutes=5)
LONGEST_BACKOFF = timedelta(hours=6)
LONGEST_BACKOFF_WITHOUT_ANSWER = timedelta(minutes=30)
"""eSMS was down, or the network: that says nothing about the call, so it is asked about soon."""


def plan(before: Call, after: Call, now: datetime) -> Call:
    """``after``, which reports made of ``before``, with its next look-up.

    A new conflict is looked up in 5 minutes. A call that is settled, or whose conflict is over, is not looked up again,
    and is no longer given up.
    """
    if after.settled and after.gave_up_at:
        after = replace(after, gave_up_at=None)
    if after.lookup_backoff and after.settled and not before.settled:
        after = replace(after, lookup_backoff=0)
    if after.conflict and not before.conflict:
        return replace(after, next_lookup_at=now + CONFLICT_PAUSE, lookup_backoff=0)
    decided = before.conflict or not before.settled or after.confirmed_at != before.confirmed_at
    if after.next_lookup_at and after.settled and not after.conflict and decided:
        return replace(after, next_lookup_at=None)
    return after


def charge(
    before: Call, after: Call, code: str, now: datetime, *, answered: bool, spread: float, verifying: bool = False
) -> Call:
    """``after`` with one more look-up counted, and the next one planned if the call is still open.

    ``spread`` is a factor of 0.9 to 1.1, so that calls asked about together do not come due together. ``verifying``:
    the call was settled, and eSMS was asked whether that is true; such a call is open until a lookup confirms it.
    """
    after = replace(after, lookup_count=after.lookup_count + 1, last_lookup_code=code)
    decided = after.settled and not after.conflict and not (verifying and after.confirmed_at is None)
    newly_in_conflict = after.conflict and not before.conflict
    if decided or newly_in_conflict or after.gave_up_at:
        return after
    pause, backoff = _pause(after.lookup_backoff, LONGEST_BACKOFF if answered else LONGEST_BACKOFF_WITHOUT_ANSWER)
    return replace(after, next_lookup_at=now + pause * spread, lookup_backoff=backoff)


def _pause(backoff: int, longest: timedelta) -> tuple[timedelta, int]:
    """The next pause, doubled ``backoff`` times but not beyond ``longest``, and the backoff after it."""
    pause = FIRST_PAUSE * 2 ** min(backoff, 10)
    return (pause, backoff + 1) if pause < longest else (longest, backoff)


def reopen(call: Call, now: datetime) -> Call:
    """The call, though it was given up: due at once."""
    return replace(call, gave_up_at=None, next_lookup_at=now, lookup_backoff=0)


def give_up(call: Call, now: datetime) -> Call:
    """The call when its last look-up left it open: eSMS is not asked again. A call in conflict stays so."""
    if call.settled:
        return replace(call, next_lookup_at=None)
    return replace(call, next_lookup_at=None, gave_up_at=now)
