"""The gauges that are sampled at scrape time: the spool, and what the database says. No process keeps count of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from webapp.callbacks.reasons import REASONS, reason_class
from webapp.callbacks.spool import SpoolError
from webapp.calls.outcome import OUTCOMES, OUTCOMES_OF_SETTLED
from webapp.esms.lookup import CODES
from webapp.esms.parameters import KNOWN_PARAMETERS
from webapp.storage.claims import due_at, lease_of
from webapp.storage.errors import Unavailable
from webapp.storage.reader import Reader
from webapp.storage.runs import RUN_OUTCOMES
from webapp.support.metrics import SampledGauge, SampledHistogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from webapp.callbacks.spool import Depth, Spool
    from webapp.storage.database import Database
    from webapp.storage.monitoring import Now, Recent
    from webapp.support.settings import Settings

T = TypeVar("T")

_SHORTEST_SECONDS = 1.0


class Pace(NamedTuple):
    """For how long a sample holds: ``factor`` times as long as it took, and ``longest`` seconds at most."""

    factor: int
    longest: float


_FAST = Pace(50, 60.0)
"""Sampling takes at most a fiftieth of one core, in each process."""
_SLOW = Pace(200, 600.0)
"""Of what people decide, in hours: every process may read many rows for it."""
_SOURCES = ("callback", "lookup")
_WINDOWS = ("hour", "day")

SPOOL_REPORTS = SampledGauge("esms_spool_reports", "Callbacks that wait in the spool for the database")
SPOOL_BYTES = SampledGauge("esms_spool_bytes", "Bytes of the spool that are in use")
SPOOL_LIMIT = SampledGauge("esms_spool_limit_bytes", "Bytes that the spool may take: SPOOL_LIMIT")
SPOOL_OLDEST = SampledGauge(
    "esms_spool_oldest_seconds", "For how long the oldest callback of the spool has waited; 0 if none does"
)
OF_THE_SPOOL = (SPOOL_REPORTS, SPOOL_BYTES, SPOOL_LIMIT, SPOOL_OLDEST)

UP = SampledGauge("esms_database_up", "1 if this receiver could read the database for its last sample, else 0")
MISSING = SampledGauge("esms_missing_calls", "Calls whose end is not known and that are not given up", ("registered",))
OVERDUE = SampledGauge("esms_overdue_calls", "Missing calls and conflicts that reconcile may ask about now")
OLDEST_MISSING = SampledGauge(
    "esms_oldest_missing_call_timestamp_seconds", "When the oldest missing call was placed; no sample: none is missing"
)
GIVEN_UP = SampledGauge("esms_given_up_calls", "Calls given up, by whether a person has dismissed them", ("dismissed",))
CONFLICTS = SampledGauge(
    "esms_conflict_calls",
    "Settled calls about which a later callback says something else, by whether a person has dismissed them",
    ("dismissed",),
)
PRICE_CONFLICTS = SampledGauge(
    "esms_price_conflict_calls", "Calls with two prices, by whether a person has dismissed them", ("dismissed",)
)
REJECTED_CALLBACKS = SampledGauge(
    "esms_rejected_callbacks",
    "Kept callbacks that could not be read, neither replayed nor dismissed, by the class of the reason",
    ("reason",),
)
REJECTED_BYTES = SampledGauge("esms_rejected_bytes", "Bytes that rejected_callbacks holds, of at most 256 MiB")
OTHER_CHANNELS = SampledGauge(
    "esms_other_channel_messages", "Kept messages of other channels of eSMS (SMS, Viber, Zalo), which are no calls"
)
LAST_CALLBACK = SampledGauge(
    "esms_last_callback_timestamp_seconds", "When the newest callback was received; no sample: none came"
)
LONGEST_GAP = SampledGauge(
    "esms_longest_callback_gap_seconds", "The longest time between two callbacks of the last 7 days, an hour at least"
)
PLACED_SINCE = SampledGauge(
    "esms_placed_since_last_callback",
    "1 if calls were placed after the newest callback and their grace is over, else 0",
)
LAST_ANSWER = SampledGauge(
    "esms_last_answer_timestamp_seconds", "When eSMS last answered a look-up of reconcile; no sample: never"
)
LAST_RUN = SampledGauge(
    "esms_reconcile_last_run",
    "1 for the outcome of the newest reconcile run, else 0; all 0 while it is under way",
    ("outcome",),
)
RUN_START = SampledGauge(
    "esms_reconcile_last_start_timestamp_seconds", "When the newest reconcile run began; no sample: none did"
)
RUN_END = SampledGauge(
    "esms_reconcile_last_end_timestamp_seconds", "When the newest reconcile run with this outcome ended", ("outcome",)
)
LOOKUP_SECONDS = SampledHistogram(
    "esms_lookup_seconds",
    "Look-ups of all reconcile runs and audits, by code and by the time that each took; repeated ones, too",
    ("code",),
)
CLOCK_AHEAD = SampledGauge(
    "esms_clock_ahead_seconds", "How far this machine's clock is ahead of the database's; behind it: negative"
)
REPLAY_DUE_GAUGE = SampledGauge("esms_replay_due", "1 while `esms-calls replay` is due after an upgrade, else 0")
OF_NOW = (
    *(UP, MISSING, OVERDUE, OLDEST_MISSING, CONFLICTS, REJECTED_CALLBACKS, REJECTED_BYTES),
    *(
        OTHER_CHANNELS,
        LAST_CALLBACK,
        LAST_ANSWER,
        LAST_RUN,
        RUN_START,
        RUN_END,
        LOOKUP_SECONDS,
        CLOCK_AHEAD,
        REPLAY_DUE_GAUGE,
    ),
)

CALLS = SampledGauge("esms_calls", "All calls by outcome, as of the figures: some seconds ago", ("outcome",))
PLACED = SampledGauge("esms_placed_calls_last_day", "Calls placed in the last 24 hours", ("registered",))
SETTLED_BY_OUTCOME = SampledGauge(
    "esms_settled_calls_last_day", "Calls settled in the last 24 hours, by outcome", ("outcome",)
)
SETTLED_BY_SOURCE = SampledGauge(
    "esms_recently_settled_calls",
    "Calls settled in the last hour and day, by what settled them",
    ("window", "settled_by"),
)
LOOKUP_SHARE = SampledGauge(
    "esms_lookup_share_ratio",
    "Share of the calls settled in the last hour and day that a look-up settled, 0 to 1; no sample: none was settled",
    ("window",),
)
LOOKUP_SHARE_WARN = SampledGauge(
    "esms_lookup_share_warn_ratio", "The share above which callbacks fail to come: LOOKUP_SHARE_WARN"
)
GIVE_UP = SampledGauge(
    "esms_reconcile_give_up_seconds", "How long after it was placed a call is given up: RECONCILE_GIVE_UP"
)
UNREAD_REPORTS = SampledGauge(
    "esms_unread_reports_last_day",
    "Reports of the last 24 hours with a value that could not be read, by parameter; other: one that is not known",
    ("parameter",),
)
OF_LATELY = (
    *(CALLS, PLACED, SETTLED_BY_OUTCOME, SETTLED_BY_SOURCE, LOOKUP_SHARE, LOOKUP_SHARE_WARN, GIVE_UP, UNREAD_REPORTS),
    *(GIVEN_UP, PRICE_CONFLICTS, LONGEST_GAP, PLACED_SINCE),
)


class Gauges:
    """All of them, for one process."""

    def __init__(self, database: Database, spool: Spool | None, settings: Settings) -> None:
        """Sample nothing yet."""
        reader, lease = Reader(database), lease_of(settings)
        self._settings = settings
        self._depth = Sampler(spool.depth) if spool else None
        self._now = Sampler(lambda: reader.now(due_at(datetime.now(UTC), settings), lease))
        self._to_decide = Sampler(reader.to_decide, _SLOW)
        self._recent = Sampler(lambda: reader.recent(due_at(datetime.now(UTC), settings)))

    def sample(self) -> Iterator[Metric]:
        """The gauges; those of the database are absent while it cannot be read."""
        if self._depth and (depth := self._depth.latest()):
            yield from _of_spool(depth, int(self._settings.spool_limit))
        now = self._now.latest()
        yield UP.of(now is not None)
        if now is None:
            return
        yield from _of_now(now)
        if to_decide := self._to_decide.latest():
            yield GIVEN_UP.by(_no_yes(to_decide.given_up))
            yield CONFLICTS.by(_no_yes(to_decide.conflicts))
            yield PRICE_CONFLICTS.by(_no_yes(to_decide.price_conflicts))
        if recent := self._recent.latest():
            yield LOOKUP_SHARE_WARN.of(float(self._settings.lookup_share_warn))
            yield GIVE_UP.of(self._settings.reconcile_give_up.total_seconds())
            yield from _of_recent(recent)


class Sampler(Generic[T]):
    """Asks for a sample, and asks again only after many times as long as that took: large databases are asked less."""

    def __init__(self, read: Callable[[], T], pace: Pace = _FAST) -> None:
        """``read`` may raise Unavailable and SpoolError."""
        self._read = read
        self._pace = pace
        self._one_at_a_time = threading.Lock()
        self._good_until = float("-inf")
        self._latest: T | None = None

    def latest(self) -> T | None:
        """A sample that is a second old, or as old as the pace allows if it takes long; None while there is none."""
        with self._one_at_a_time:
            began = time.monotonic()
            if began >= self._good_until:
                try:
                    self._latest = self._read()
                except (Unavailable, SpoolError):
                    self._latest = None
                now = time.monotonic()
                longest = _SHORTEST_SECONDS if self._latest is None else self._pace.longest
                self._good_until = now + min(longest, max(_SHORTEST_SECONDS, self._pace.factor * (now - began)))
            return self._latest


def _of_spool(depth: Depth, limit: int) -> Iterator[Metric]:
    yield SPOOL_REPORTS.of(depth.reports)
    yield SPOOL_BYTES.of(depth.size)
    yield SPOOL_LIMIT.of(limit)
    yield SPOOL_OLDEST.of(depth.oldest_seconds(datetime.now(UTC)))


def _of_now(now: Now) -> Iterator[Metric]:
    rejected: Counter[str] = Counter()
    for reason, number in now.rejected.items():
        rejected[reason_class(reason)] += number
    yield MISSING.by(_no_yes(now.missing))
    yield OVERDUE.of(now.overdue)
    yield OLDEST_MISSING.of(now.oldest_missing)
    yield REJECTED_CALLBACKS.by({(name,): rejected[name] for name in REASONS})
    yield REJECTED_BYTES.of(now.rejected_bytes)
    yield OTHER_CHANNELS.of(now.other_channels)
    yield LAST_CALLBACK.of(now.callback_at)
    yield LAST_ANSWER.of(now.answered_at)
    yield LAST_RUN.by({(name,): now.run_outcome == name for name in RUN_OUTCOMES})
    yield RUN_START.of(now.run_started_at)
    yield RUN_END.by({(name,): now.run_ends[name] for name in RUN_OUTCOMES})
    yield LOOKUP_SECONDS.by(
        {(code,): (now.latencies.cumulative(code), now.latencies.seconds_of(code)) for code in CODES}
    )
    yield CLOCK_AHEAD.of(now.clock_ahead.total_seconds())
    yield REPLAY_DUE_GAUGE.of(now.replay_due)


def _no_yes(counts: tuple[int, int]) -> dict[tuple[str, ...], float]:
    return dict(zip((("no",), ("yes",)), counts, strict=True))


def _of_recent(recent: Recent) -> Iterator[Metric]:
    by_source: dict[tuple[str, ...], int] = {
        (window, source): recent.settled_by.get((window, source), 0) for window in _WINDOWS for source in _SOURCES
    }
    settled = {window: sum(by_source[window, source] for source in _SOURCES) for window in _WINDOWS}
    unread: Counter[str] = Counter()
    for name, number in recent.unread.items():
        unread[name if name in KNOWN_PARAMETERS else "other"] += number
    yield CALLS.by({(name,): recent.calls.get(name, 0) for name in OUTCOMES})
    yield PLACED.by(_no_yes(recent.placed))
    yield SETTLED_BY_OUTCOME.by({(name,): recent.outcomes.get(name, 0) for name in OUTCOMES_OF_SETTLED})
    yield SETTLED_BY_SOURCE.by(by_source)
    yield LOOKUP_SHARE.by({(one,): by_source[one, "lookup"] / settled[one] for one in _WINDOWS if settled[one]})
    yield UNREAD_REPORTS.by({(name,): unread[name] for name in (*sorted(KNOWN_PARAMETERS), "other")})
    yield LONGEST_GAP.of(recent.callbacks.longest_gap.total_seconds())
    yield PLACED_SINCE.of(recent.callbacks.placed_since)
