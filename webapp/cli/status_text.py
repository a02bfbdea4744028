"""What ``status`` prints: groups of lines for people, and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from webapp.cli.status_needs import lookup_share_in_words, run_outcome
from webapp.cli.time_words import duration, time_and_age
from webapp.storage.types import plain

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from webapp.callbacks.spool import Depth
    from webapp.cli.status_needs import StatusMoment
    from webapp.storage.status import Status, UnregisteredCounts

Rows = list[tuple[str, Any]]


def status_as_json(found: Status, spool: Depth, moment: StatusMoment) -> dict[str, Any]:
    """Everything, under the names of ``Status``; what belongs together is an object. Times are UTC."""
    run = found.last_run
    last = run and {name: plain(value) for name, value in run.items()} | {"outcome": run_outcome(run, moment)}
    apart = {
        "last_day",
        "callbacks",
        "no_answer",
        "wrong_tokens",
        "token_uses",
        "clock_ahead",
        "last_run",
        "unregistered",
    }
    shown = {name: plain(value) for name, value in asdict(found).items() if name not in apart}
    return shown | {
        "unregistered": found.unregistered.count,
        "unregistered_missing": found.unregistered.missing,
        "unregistered_last_day": found.unregistered.last_day,
        "unregistered_day_before": found.unregistered.day_before,
        "settled_last_day": found.last_day.settled,
        "lookup_share": found.last_day.share,
        "last_callback_at": plain(found.callbacks.last_at),
        "longest_gap_seconds": found.callbacks.longest_gap.total_seconds(),
        "no_answer": dict(found.no_answer.codes),
        "last_answer_at": plain(found.no_answer.since),
        "wrong_tokens_last_hour": found.wrong_tokens.count,
        "wrong_tokens_last_day": found.wrong_tokens.last_day,
        "callback_tokens": [
            {"token_ending": one.ending, "accepted": one.accepted, "last_day": one.count, "last_at": plain(one.last_at)}
            for one in token_lines(found, moment)
        ],
        "clock_ahead_seconds": round(found.clock_ahead.total_seconds(), 3),
        "spool": spool_as_json(spool, moment.now),
        "last_run": last,
    }


def spool_as_json(spool: Depth, now: datetime) -> dict[str, Any]:
    """What waits in the spool."""
    return {
        "reports": spool.reports,
        "oldest_seconds": round(spool.oldest_seconds(now), 3),
        "oldest_at": plain(spool.oldest_at),
        "bytes": spool.size,
    }


def status_groups(found: Status, spool: Depth, moment: StatusMoment) -> list[tuple[str, Rows]]:
    """Everything, in groups of lines; times are local, with their age."""
    now, zone = moment.now, moment.zone
    last = found.last_run
    ended = last and (run_outcome(last, moment) or "under way")
    return [
        (
            "Calls",
            [
                ("calls", f"{found.calls:,}"),
                ("settled", f"{found.settled:,}"),
                ("  by callback", f"{found.by_callback:,}"),
                ("  by lookup", f"{found.by_lookup:,}"),
                ("missing", f"{found.missing:,}"),
                ("  overdue", f"{found.overdue:,}"),
                ("  oldest missing placed", time_and_age(found.oldest_missing, now, zone)),
                ("never registered", _growth(found.unregistered)),
                ("given up", _given_up(found)),
                ("conflicts", f"{found.conflicts:,}"),
                ("price conflicts", f"{found.price_conflicts:,}"),
            ],
        ),
        (
            "Callbacks",
            [
                ("last callback", time_and_age(found.callbacks.last_at, now, zone)),
                ("longest gap, 7 days", duration(found.callbacks.longest_gap)),
                ("rejected callbacks", f"{found.rejected:,}"),
                ("other channels", f"{found.other_channels:,}"),
                *((f"token …{one.ending}, 24 h", _token_use(one, moment)) for one in token_lines(found, moment)),
                ("wrong token, 24 h", f"{found.wrong_tokens.last_day:,}"),
                ("wrong token, last hour", f"{found.wrong_tokens.count:,}"),
                ("address not allowed, 24 h", f"{found.not_allowed_last_day:,}"),
                ("values not read, 24 h", f"{sum(found.unread_last_day.values()):,}"),
                *spool_rows(spool, now, zone),
            ],
        ),
        (
            "Look-ups",
            [
                ("last run", f"{time_and_age(last['started_at'], now, zone)}, {ended}" if last else "none"),
                ("last answer of eSMS", time_and_age(found.no_answer.since, now, zone)),
                ("settled by lookup, 24 h", lookup_share_in_words(found.last_day)),
            ],
        ),
    ]


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A callback token, known by its last four characters, and its callbacks of the last day."""

    ending: str
    accepted: bool
    count: int
    last_at: datetime | None


def token_lines(found: Status, moment: StatusMoment) -> list[TokenLine]:
    """The accepted tokens, the one to give to eSMS first; then those that are accepted no longer."""
    uses = {use.token_ending: use for use in found.token_uses}
    endings = dict.fromkeys((*moment.token_endings, *uses))
    return [
        TokenLine(
            ending,
            accepted=ending in moment.token_endings,
            count=uses[ending].count if ending in uses else 0,
            last_at=uses[ending].last_at if ending in uses else None,
        )
        for ending in endings
    ]


def _token_use(one: TokenLine, moment: StatusMoment) -> str:
    words = f"{one.count:,}"
    if one.last_at:
        words += f", last {duration(moment.now - one.last_at)} ago"
    return words if one.accepted else f"{words}; not accepted"


def _growth(found: UnregisteredCounts) -> str:
    words = f"{found.count:,} (new in 24 h: {found.last_day:,}, in the 24 h before: {found.day_before:,})"
    return words if found.count else "0"


def _given_up(found: Status) -> str:
    dismissed = found.given_up - found.given_up_to_see_to
    return f"{found.given_up:,} ({dismissed:,} dismissed)" if dismissed else f"{found.given_up:,}"


def spool_rows(spool: Depth, now: datetime, zone: ZoneInfo) -> Rows:
    """What waits in the spool, for people."""
    rows: Rows = [("in the spool", f"{spool.reports:,}")]
    if spool.reports:
        rows.append(("  oldest", time_and_age(spool.oldest_at, now, zone)))
    return rows


def listed(title: str, reference_ids: list[str], number: int) -> list[str]:
    """Lines that name the first calls of a kind."""
    if not number:
        return []
    lines = [f"{title}, oldest placed first:", *(f"  {one}" for one in reference_ids)]
    return [*lines, f"  and {number - len(reference_ids):,} more"] if number > len(reference_ids) else lines
