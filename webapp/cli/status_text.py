"""What `status` says, made from the counts: lines for people, JSON, and what needs a person."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from webapp.storage.rejected import LIMIT_BYTES
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from decimal import Decimal

    from webapp.callbacks.spool import Depth
    from webapp.storage.reader import LookupShare, Status

_DAY = timedelta(days=1)
_REJECTED_WARNING = LIMIT_BYTES // 2
_SPOOL_WARNING_SECONDS = 60
_BAD_OUTCOMES = {"failures", "refused", "died"}


def outcome(run: Mapping[str, Any], now: datetime, lease: timedelta) -> str | None:
    """How a run ended; one that has not renewed its lease has died, although its row does not say so yet."""
    expired = run["finished_at"] is None and (run["seen_at"] or run["started_at"]) < now - lease
    return "died" if expired else run["outcome"]


def lookup_share_warning(found: LookupShare, warn: Decimal) -> str | None:
    """What to do when more than the share ``warn`` of the last day's calls were settled by lookup; None when not.

    Look-ups replace lost callbacks, and so hide that callbacks no longer come.
    """
    if found.by_lookup <= warn * found.settled:
        return None
    return (
        f"settled by lookup in the last 24 hours: {lookup_share_in_words(found)}, more than LOOKUP_SHARE_WARN "
        f"({(warn * 100).normalize():f}%). Callbacks fail to come: check from outside that PUBLIC_URL/healthz "
        "answers; compare what `esms-calls callback-url` prints with the CallbackUrl of the calls that are placed; "
        "look at the server's log and at rejected_callbacks; then ask eSMS's support."
    )


def lookup_share_in_words(found: LookupShare) -> str:
    """The share of the last day's calls that were settled by lookup."""
    if found.share is None:
        return "none was settled"
    return f"{found.share:.1%} ({found.by_lookup} of {found.settled})"


def needs(found: Status, spool: Depth, now: datetime, lease: timedelta, warn: Decimal) -> Iterator[str]:
    """What a person has to do; ``warn`` is the share of look-ups above which callbacks seem to be lost."""
    yield from spool_needs(spool, now)
    last = found.last_run
    if found.rejected:
        yield (
            f"callbacks that could not be read: {found.rejected}. Look at rejected_callbacks.reason; "
            "after an upgrade that reads them, run `esms-calls replay --rejected`."
        )
    if found.rejected_bytes > _REJECTED_WARNING:
        yield (
            f"rejected_callbacks holds {found.rejected_bytes >> 20} of {LIMIT_BYTES >> 20} MiB: "
            "beyond that the oldest are dropped; replay them, or copy and delete them."
        )
    if found.given_up:
        yield (
            f"calls given up (gave_up_at): {found.given_up}. Ask eSMS's support how they ended, or eSMS itself once "
            "more: `esms-calls reconcile --retry-given-up`."
        )
    if warning := lookup_share_warning(found.last_day, warn):
        yield warning
    if last and (ended := outcome(last, now, lease)) in _BAD_OUTCOMES:
        yield f"the last reconcile run ended with {ended}: run `esms-calls reconcile` and read its message."
    if found.overdue and (last is None or last["started_at"] < now - _DAY):
        yield (
            f"calls overdue: {found.overdue}, and no reconcile ran for a day. Have a timer run `esms-calls reconcile`."
        )


def spool_needs(spool: Depth, now: datetime) -> Iterator[str]:
    """What a person has to do about the spool; this needs no database."""
    seconds = spool.oldest_seconds(now)
    if seconds > _SPOOL_WARNING_SECONDS:
        yield (
            f"callbacks that wait in the spool: {spool.reports}, the oldest for {round(seconds)} s. The server stores "
            "them once the database takes writes: look at its log and /readyz; without it, `esms-calls spool drain`."
        )


def as_json(found: Status, spool: Depth, now: datetime, lease: timedelta) -> dict[str, Any]:
    """Everything, under the names of ``Status``; of the last day how many were settled, and the share by lookup."""
    run = found.last_run
    last = run and {name: plain(value) for name, value in run.items()} | {"outcome": outcome(run, now, lease)}
    shown = {name: plain(value) for name, value in asdict(found).items() if name != "last_day"}
    last_day = {"settled_last_day": found.last_day.settled, "lookup_share": found.last_day.share}
    return shown | last_day | {"spool": spool_as_json(spool, now), "last_run": last}


def spool_as_json(spool: Depth, now: datetime) -> dict[str, Any]:
    """What waits in the spool."""
    return {
        "reports": spool.reports,
        "oldest_seconds": round(spool.oldest_seconds(now), 3),
        "oldest_at": plain(spool.oldest_at),
        "bytes": spool.size,
    }


def as_rows(found: Status, spool: Depth, now: datetime, lease: timedelta) -> list[tuple[str, Any]]:
    """Everything, line by line, for people."""
    last = found.last_run
    return [
        ("calls", found.calls),
        ("settled", found.settled),
        ("  by callback", found.by_callback),
        ("  by lookup", found.by_lookup),
        ("  by lookup, last 24 hours", lookup_share_in_words(found.last_day)),
        ("missing", found.missing),
        ("  overdue", found.overdue),
        ("  oldest missing placed", plain(found.oldest_missing) or "none"),
        ("given up", found.given_up),
        ("conflicts", found.conflicts),
        ("rejected callbacks", found.rejected),
        *spool_as_rows(spool, now),
        ("last run", f"{plain(last['started_at'])} {outcome(last, now, lease) or 'under way'}" if last else "none"),
    ]


def spool_as_rows(spool: Depth, now: datetime) -> list[tuple[str, Any]]:
    """What waits in the spool, for people."""
    rows: list[tuple[str, Any]] = [("in the spool", spool.reports)]
    if spool.reports:
        rows.append(("  oldest, seconds", round(spool.oldest_seconds(now))))
    return rows
