"""What needs a person, by the counts of ``status``: each line says what is wrong, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from webapp.cli.time_words import duration, local_time
from webapp.storage.rejected import LIMIT_BYTES
from webapp.storage.runs import outcome_now
from webapp.support.sizes import size_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from webapp.callbacks.spool import Depth
    from webapp.storage.status import LookupShare, Status, UnregisteredCounts

_RUN_EVERY = timedelta(minutes=30)
_REJECTED_WARNING = LIMIT_BYTES // 2
_CLOCK_TOLERANCE = timedelta(minutes=1)
_SPOOL_WARNING_SECONDS = 60
LEAST_FREE_BYTES = 64 << 20
"""With less the disk of the spool counts as full."""
_MANY_UNREGISTERED, _TIMES = 1000, 2
"""New calls of a day that were never registered, and times as many as the day before."""
_CALLBACK_CHECKS = (
    "Check from outside that PUBLIC_URL/esms/callback/ answers 404 with JSON; compare what `esms-calls callback-url` "
    "prints with the CallbackUrl of the calls that are placed; look at the server's log; then ask eSMS's support."
)


SAFE = "Callbacks are safe: they wait in the spool until it is available."
NOT_SPOOLED = "SPOOL=off: callbacks are answered 503 meanwhile, and those that eSMS gives up are lost."
DISK_FULL = "The disk of INSTANCE_DIR is full, or nearly so: callbacks that the spool cannot take are answered 503."
SPOOL_FILLING = "The spool is filling: beyond SPOOL_LIMIT callbacks are answered 503."


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusMoment:
    """What the words need besides the counts: now, the zone that people read, and what the settings say.

    ``spool_limit``: SPOOL_LIMIT in bytes, 0 where the spool is off.
    ``disk_free``: bytes where the spool lies; None: it is off, or not on this machine.
    ``token_endings``: the last four characters of each callback token that is accepted, the one to give to eSMS first.
    """

    now: datetime
    zone: ZoneInfo
    lease: timedelta
    lookup_share_warn: Decimal
    spool_limit: int
    disk_free: int | None = None
    token_endings: tuple[str, ...] = ()

    @property
    def disk_is_full(self) -> bool:
        """Whether the spool has no space on its disk, or hardly any."""
        return self.disk_free is not None and self.disk_free < LEAST_FREE_BYTES


def run_outcome(run: Mapping[str, Any], moment: StatusMoment) -> str | None:
    """How a run ended, as of the moment."""
    return outcome_now(run, moment.now, moment.lease)


def all_needs(found: Status, spool: Depth, moment: StatusMoment) -> Iterator[str]:
    """What a person has to do, the most urgent first: what loses callbacks, then look-ups, then what people decide."""
    yield from spool_needs(spool, moment)
    yield from _callback_needs(found, moment)
    yield from _lookup_needs(found, moment)
    yield from _call_needs(found)


def database_away(what_to_do: str, spool: Depth, moment: StatusMoment) -> str:
    """What is said where the database cannot be used."""
    return f"the database cannot be used: {what_to_do}. {_of_callbacks(spool, moment)}"


def _of_callbacks(spool: Depth, moment: StatusMoment) -> str:
    """What becomes of callbacks while the database cannot be used."""
    if not moment.spool_limit:
        return NOT_SPOOLED
    if moment.disk_is_full:
        return DISK_FULL
    return SPOOL_FILLING if is_filling(spool, moment.spool_limit) else SAFE


def is_filling(spool: Depth, limit: int) -> bool:
    """Whether the spool is more than half full: soon, or already, it takes no more."""
    return 2 * spool.size > limit > 0


def spool_needs(spool: Depth, moment: StatusMoment) -> Iterator[str]:
    """What a person has to do about the spool; this needs no database."""
    if moment.disk_is_full:
        yield (
            f"the disk of INSTANCE_DIR has {size_in_words(moment.disk_free or 0)} free: without space callbacks that "
            "the database cannot take are answered 503, and those that eSMS gives up are lost. Free some: `df -h` and "
            "`du` say what takes it."
        )
    if is_filling(spool, moment.spool_limit):
        yield (
            f"the spool holds {size_in_words(spool.size)} of {size_in_words(moment.spool_limit)} (SPOOL_LIMIT): "
            "beyond that callbacks are answered 503, and those that eSMS gives up are lost. Make the database take "
            "writes; to gain time set a higher SPOOL_LIMIT, if the disk has space, and restart the server."
        )
    seconds = spool.oldest_seconds(moment.now)
    if seconds > _SPOOL_WARNING_SECONDS:
        yield (
            f"callbacks that wait in the spool: {spool.reports}, the oldest for "
            f"{duration(timedelta(seconds=seconds))}. They are safe on this machine's disk. "
            "The server stores them once the database takes writes: look at its log and /readyz; without it, "
            "`esms-calls spool drain`."
        )


def _callback_needs(found: Status, moment: StatusMoment) -> Iterator[str]:
    seen, wrong = found.callbacks, found.wrong_tokens
    if seen.last_at and seen.have_stopped(moment.now):
        yield (
            f"callbacks have stopped: the last came at {local_time(seen.last_at, moment.zone)}, "
            f"{duration(moment.now - seen.last_at)} ago (in the last 7 days no gap was longer than "
            f"{duration(seen.longest_gap)}), and calls were placed since. {_CALLBACK_CHECKS}"
        )
    if found.not_allowed_last_hour:
        yield (
            f"callbacks from addresses that CALLBACK_ALLOWED_IPS does not name: {found.not_allowed_last_hour} in the "
            "last hour, with a right token, answered 404. The server's log has the addresses (404, address not "
            "allowed). If they are eSMS's, add them; if they are your proxy's, set TRUSTED_PROXIES; else others know "
            "the token: `esms-calls rotate-token callback`."
        )
    if wrong.count and not wrong.right_since:
        yield (
            f"requests with a wrong token: {wrong.count} in the last hour, and none with a right one since. "
            "If they are eSMS's, the calls are placed with an old CallbackUrl: place them with what "
            "`esms-calls callback-url` prints, or add the old token to CALLBACK_TOKEN."
        )
    if warning := lookup_share_warning(found.last_day, moment.lookup_share_warn):
        yield warning
    if found.unread_last_day:
        names = _counted(found.unread_last_day)
        yield (
            f"values that could not be read in the last 24 hours, by parameter: {names}. The reports are stored; "
            "status_reports.unread and payload show them. A name with amp; comes from a CallbackUrl that was "
            "HTML-escaped: place the calls with plain & in it. After an upgrade that reads the values, run "
            "`esms-calls replay --unread`."
        )
    if found.rejected:
        yield (
            f"callbacks that could not be read: {found.rejected} ({_counted(found.rejected_reasons)}). "
            "rejected_callbacks has them whole; after an upgrade that reads them, run `esms-calls replay --rejected`; "
            "if they are not eSMS's, `esms-calls dismiss --rejected`."
        )
    if found.rejected_bytes > _REJECTED_WARNING:
        yield (
            f"rejected_callbacks holds {found.rejected_bytes >> 20} of {LIMIT_BYTES >> 20} MiB: "
            "beyond that the oldest are dropped; replay them, or copy and delete them."
        )


def _lookup_needs(found: Status, moment: StatusMoment) -> Iterator[str]:
    last = found.last_run
    if last and run_outcome(last, moment) == "refused":
        yield (
            "eSMS refused the account in the last reconcile run: run `esms-calls reconcile` with the settings of the "
            "server, its message names the setting or what to ask eSMS."
        )
    if found.no_answer.codes:
        codes = _counted(found.no_answer.codes)
        since = found.no_answer.since
        yield (
            f"eSMS does not answer: {sum(found.no_answer.codes.values())} missing calls had no answer to their last "
            f"look-up ({codes}), and there was no answer since, "
            f"{f'the last one at {local_time(since, moment.zone)}' if since else 'nor ever before'}. "
            "Check this machine's way to ESMS_API_URL; the output of the last reconcile says what failed, and "
            "docs/operations.md what to do about each code. Each call is asked about again 5 to 30 minutes after."
        )
    started = last["started_at"] if last else None
    under_way = last is not None and run_outcome(last, moment) is None
    if found.overdue and not under_way and (started is None or started < moment.now - _RUN_EVERY):
        ago = (
            f"the last reconcile run began {duration(moment.now - started)} ago" if started else "no reconcile ran yet"
        )
        yield (
            f"calls overdue: {found.overdue}, and {ago}. Have a timer run `esms-calls reconcile`, or use `--watch` "
            "(docs/deployment.md)."
        )


def _call_needs(found: Status) -> Iterator[str]:
    if found.given_up_to_see_to:
        yield (
            f"calls given up: {found.given_up_to_see_to}, listed below. Ask eSMS's support how they ended, and "
            "enter it (docs/operations.md, given up), or ask eSMS itself once more: "
            "`esms-calls reconcile --retry-given-up`. If the result stays unknown: `esms-calls dismiss --given-up`."
        )
    yield from _unregistered_needs(found.unregistered)
    if found.price_conflicts:
        yield (
            f"calls with two prices: {found.price_conflicts}, listed below. `esms-calls show ID` has both; "
            "the first one stands. Check eSMS's invoice, then `esms-calls dismiss ID`."
        )
    if abs(found.clock_ahead) > _CLOCK_TOLERANCE:
        way = "ahead of" if found.clock_ahead > timedelta(0) else "behind"
        yield (
            f"this machine's clock is {duration(abs(found.clock_ahead))} {way} the database's: set both by NTP. "
            "Times of reports and the order of reports from several machines depend on it."
        )
    if found.replay_due_since:
        yield REPLAY_DUE


def _unregistered_needs(found: UnregisteredCounts) -> Iterator[str]:
    """Only where calls are registered: who registers none has no other calls."""
    grown = found.last_day >= _MANY_UNREGISTERED and found.last_day > _TIMES * found.day_before
    if grown and found.registered_last_day and found.last_day > found.registered_last_day:
        yield (
            f"calls that were never registered: {found.last_day} new ones in the last 24 hours, {found.day_before} in "
            f"the 24 hours before, beside {found.registered_last_day} registered ones. If you did not place them, the "
            "CallbackUrl is known to others: give eSMS a new token (`esms-calls rotate-token callback`). Reconcile "
            "asks about registered calls first, and about these by one look-up in ten."
        )


REPLAY_DUE = (
    "a newer version folds reports by a better rule: run `esms-calls replay` once, so that older calls follow it, too."
)


def lookup_share_warning(found: LookupShare, warn: Decimal) -> str | None:
    """What to do when more than the share ``warn`` of the last day's calls were settled by lookup; None when not.

    Look-ups replace lost callbacks, and so hide that callbacks no longer come.
    """
    if found.by_lookup <= warn * found.settled:
        return None
    return (
        f"settled by lookup in the last 24 hours: {lookup_share_in_words(found)}, more than LOOKUP_SHARE_WARN "
        f"({(warn * 100).normalize():f}%). Callbacks fail to come. {_CALLBACK_CHECKS}"
    )


def lookup_share_in_words(found: LookupShare) -> str:
    """The share of the last day's calls that were settled by lookup."""
    if found.share is None:
        return "none was settled"
    return f"{found.share:.1%} ({found.by_lookup} of {found.settled})"


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
