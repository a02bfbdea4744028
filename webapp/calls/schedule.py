"""The rule: what one more status report, registration or look-up makes of a call.

Pure functions over frozen values. Knows no clock, no database, no Flask, and none of eSMS's spellings.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.calls.rule import Call

CONFLICT_PAUSE = timedelta(minutes=5)
FIRST_PAUSE = timedelta(minutes=5)
LONGEST_PAUSE = timedelta(hours=6)


def plan(before: Call, after: Call, now: datetime) -> Call:
    """``after`` with its next look-up planned: a new conflict is asked about soon, a settled call not again."""
    if after.settled and after.gave_up_at:
        after = replace(after, gave_up_at=None)
    if after.settled and not before.settled:
        after = replace(after, lookup_backoff=0)
    if after.conflict and not before.conflict:
        return replace(after, next_lookup_at=now + CONFLICT_PAUSE, lookup_backoff=0)
    decided = before.conflict or not before.settled or after.confirmed_at != before.confirmed_at
    if after.next_lookup_at and after.settled and not after.conflict and decided:
        return replace(after, next_lookup_at=None)
    return after


def charge(before: Call, after: Call, code: str, now: datetime, *, spread: float, verifying: bool = False) -> Call:
    """``after`` with one more look-up counted; if it is still open, asked again in 5 minutes, doubling up to 6 hours.

    ``spread`` is a factor about 1 (0.9 to 1.1), so that calls asked together do not come due together. ``verifying``:
    it was settled already, and eSMS was asked whether that is true; then it is open until a lookup confirms it.
    """
    after = replace(after, lookup_count=after.lookup_count + 1, last_lookup_code=code)
    decided = after.settled and not after.conflict and not (verifying and after.confirmed_at is None)
    newly_in_conflict = after.conflict and not before.conflict
    if decided or newly_in_conflict or after.gave_up_at:
        return after
    pause = min(FIRST_PAUSE * 2 ** min(after.lookup_backoff, 10), LONGEST_PAUSE)
    return replace(after, next_lookup_at=now + pause * spread, lookup_backoff=after.lookup_backoff + 1)


def revive(call: Call, now: datetime) -> Call:
    """The call when it is asked about again, though it was given up."""
    return replace(call, gave_up_at=None, next_lookup_at=now, lookup_backoff=0)


def give_up(call: Call, now: datetime) -> Call:
    """The call when eSMS, asked once more after all that time, still does not say how it ended."""
    if call.settled:
        return replace(call, next_lookup_at=None)
    return replace(call, next_lookup_at=None, gave_up_at=now)
