"""The reconcile run: asks eSMS about every call that is due, and stores each answer.

Calls are claimed a few at a time, so that many runs share the work; no transaction is open while eSMS is asked.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from webapp.esms import parameters
from webapp.reconcile.clock import Clocks, DatabaseClock
from webapp.reconcile.dispatcher import Dispatcher, Ending
from webapp.reconcile.failures import Failures
from webapp.reconcile.latencies import LatencyRecorder
from webapp.reconcile.rate_limiter import RateLimiter
from webapp.storage import claims, runs
from webapp.storage.claims import Claimed, Due, lease_of
from webapp.storage.errors import Unavailable
from webapp.storage.reader import Reader
from webapp.storage.runs import Run
from webapp.storage.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from webapp.esms.client import Client
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.database import Database
    from webapp.storage.runs import RunOutcome
    from webapp.support.settings import Settings

_SAVE_SECONDS = 2.0
_ONE_IN = 10
_AT_ONCE = timedelta(seconds=2)
"""A run that ends this soon after an answer of eSMS ends with it: ``answered_at`` is then ``finished_at``."""


@dataclass(slots=True)
class Progress:
    """What a run has done so far."""

    run: Run
    due: int
    failures: Failures = field(default_factory=Failures)
    lookups_per_second: float = 0.0
    refused_code: str | None = None
    ended: Ending | None = None
    unanswered: Counter[str] = field(default_factory=Counter)
    slowed_down: int = 0
    clocks: Clocks = field(default_factory=Clocks)
    unasked: int = 0
    all_claimed_by_others: bool = False


def rate_limiter_of(database: Database, settings: Settings) -> RateLimiter:
    """The rate limiter of one run, as the settings say."""
    batch = max(1, min(settings.reconcile_concurrency // 2, settings.reconcile_rate // 4))
    return RateLimiter(database, settings.reconcile_rate, batch)


class _Claims(NamedTuple):
    """Calls that this run may ask about until then, in seconds of ``time.monotonic``."""

    calls: list[Claimed]
    lease_until: float


class Reconciler:
    """One run."""

    def __init__(self, database: Database, client: Client, settings: Settings) -> None:
        """Prepare; nothing is asked yet."""
        self._database = database
        self._writer = Writer(database)
        self._reader = Reader(database)
        self._client = client
        self._settings = settings
        self._clock = DatabaseClock(database)
        self._lease = lease_of(settings)
        self._leases: dict[str, datetime] = {}
        self._verifying: set[str] = set()
        self._unclosed_run: Run | None = None
        self._claimed = 0
        self._shared = self._shared_by_unregistered = 0
        self._all_claimed = False
        self._saved_at = time.monotonic()
        self._renewed_at = 0.0

    def run(self, due: Due, *, limit: int | None, stop: Event, watch: Callable[[Progress], None]) -> Progress:
        """Ask about every call that is due, once, or about ``limit`` of them; ``watch`` gets the progress as it goes.

        ``stop`` ends the run once the look-ups in flight have their answers. Raises ``Unavailable``; then the claimed
        calls are free again when their lease is over, or after ``close_broken_run``.
        """
        number, _ = self._reader.due(due, 0)
        if limit is not None and limit < _ONE_IN:
            # Too few for one in ten: which of many such runs asks about one of them is left to chance.
            self._shared = secrets.randbelow(_ONE_IN)
        number = number if limit is None else min(number, limit)
        run = Run(id=parameters.new_id(), started_at=self._clock.now(), host=socket.gethostname())
        progress = Progress(run=run, due=number)
        progress.clocks.note("the database's", datetime.now(UTC) - run.started_at)
        try:
            rate_limiter = rate_limiter_of(self._database, self._settings)
            with Dispatcher(self._client, rate_limiter, self._settings) as dispatcher:
                first = self._claim(due, dispatcher.capacity, limit)
                if number and not first.calls:
                    progress.all_claimed_by_others = True
                    return progress
                runs.start_run(self._database, run, lease=self._lease)
                self._work(dispatcher, due, first, limit, progress, stop, watch)
                self._finish(dispatcher, due, limit, progress, interrupted=stop.is_set())
                watch(progress)
        except BaseException:
            # No look-up is in flight any more, so other runs may ask about these calls at once.
            self._unclosed_run = replace(progress.run, outcome="died")
            with suppress(Unavailable):
                self.close_broken_run()
            raise
        return progress

    def close_broken_run(self) -> None:
        """After ``run`` raised: record that the run died, and release its calls. Raises ``Unavailable``."""
        if self._unclosed_run:
            self._release()
            runs.save_run(self._database, replace(self._unclosed_run, finished_at=self._clock.now()))
            self._unclosed_run = None

    def _work(
        self,
        dispatcher: Dispatcher,
        due: Due,
        claimed: _Claims,
        limit: int | None,
        progress: Progress,
        stop: Event,
        watch: Callable[[Progress], None],
    ) -> None:
        """Claim, ask and conclude, until no call is left to ask about or the run has to end."""
        begun_at, latencies = time.monotonic(), LatencyRecorder(self._database, dispatcher)
        due = self._ask(dispatcher, due, claimed)
        while not (dispatcher.idle and (self._all_claimed or dispatcher.ended or stop.is_set())):
            if stop.is_set():
                dispatcher.close()
            else:
                due = self._ask(dispatcher, due, self._claim(due, dispatcher.capacity, limit))
            answers, stored_at = dispatcher.answers(), self._clock.now()
            progress.clocks.note("eSMS's", dispatcher.clock_ahead)
            self._note_answer(dispatcher, stored_at if answers else None, progress)
            self._conclude(answers, stored_at, progress)
            self._save_now_and_then(dispatcher, progress)
            latencies.save_now_and_then()
            progress.slowed_down = dispatcher.slowed_down
            progress.lookups_per_second = progress.run.checked / (time.monotonic() - begun_at)
            watch(progress)
        latencies.save()

    def _claim(self, due: Due, capacity: int, limit: int | None) -> _Claims:
        """Claim as many calls as there is capacity for, and no more than ``limit`` in the whole run."""
        if limit is not None:
            self._all_claimed |= self._claimed >= limit
            capacity = min(capacity, limit - self._claimed)
        if self._all_claimed or not capacity:
            return _Claims([], 0.0)
        here, now = time.monotonic(), self._clock.now()
        until = now + self._lease
        # One claim in ten is for a call known from callbacks alone, while both kinds are due.
        reserved = max(0, (self._shared + capacity) // _ONE_IN - self._shared_by_unregistered)
        found = claims.claim(self._database, due, capacity, now=now, until=until, reserved=reserved)
        self._note_shares(found, reserved)
        self._all_claimed = not found
        self._claimed += len(found)
        self._leases.update(dict.fromkeys((call.reference_id for call in found), until))
        return _Claims(found, here + self._lease.total_seconds())

    def _note_shares(self, claimed: list[Claimed], reserved: int) -> None:
        """Count what was shared: all where registered ones were claimed, else the reserved claims alone.

        Without these a claim of one call, reserved, would be reserved again each time. Where no call known from
        callbacks alone was due, nothing was shared: none of them gets more than one in ten for it later.
        """
        open_calls = [call for call in claimed if not call.verifying]
        unregistered = sum(not call.registered for call in open_calls)
        if reserved and not unregistered:
            self._shared = self._shared_by_unregistered = 0
            return
        if unregistered == len(open_calls):
            unregistered = min(unregistered, reserved)
            self._shared += unregistered
        else:
            self._shared += len(open_calls)
        self._shared_by_unregistered += unregistered

    def _ask(self, dispatcher: Dispatcher, due: Due, claimed: _Claims) -> Due:
        """Have eSMS asked about these calls; what is due after them."""
        dispatcher.ask((call.request for call in claimed.calls), claimed.lease_until)
        verifying = [call for call in claimed.calls if call.verifying]
        self._verifying.update(call.reference_id for call in verifying)
        if not verifying:
            return due
        # They are claimed in the order of placed_at: the next claim need not read again those that are confirmed.
        return replace(due, verify_since=max(call.placed_at for call in verifying))

    def _save_now_and_then(self, dispatcher: Dispatcher, progress: Progress) -> None:
        """Save the run's counts, and renew its leases: if it is killed, other runs see when it was last seen."""
        here, often = time.monotonic(), self._lease.total_seconds() / 6
        if here - self._saved_at < min(_SAVE_SECONDS, often):
            return
        self._saved_at = here
        progress.run = replace(progress.run, seen_at=self._clock.now())
        runs.save_run(self._database, progress.run)
        if here - self._renewed_at > often and (unconcluded := dispatcher.unconcluded):
            until = self._clock.now() + self._lease
            renewed = claims.renew(self._database, {name: self._leases[name] for name in unconcluded}, until)
            self._leases.update(dict.fromkeys(renewed, until))
            dispatcher.abandon(set(unconcluded) - renewed)
            dispatcher.renew(renewed, here + self._lease.total_seconds())
            self._renewed_at = here

    def _note_answer(self, dispatcher: Dispatcher, stored_at: datetime | None, progress: Progress) -> None:
        """Note when eSMS last answered.

        That is ``stored_at`` if the last of the answers that are stored then is one: the calls without an answer get
        the same time, and ``status`` must see that eSMS has answered since.
        """
        answered_at = self._clock.at(dispatcher.answered_at)
        if stored_at and answered_at and not dispatcher.unanswered:
            answered_at = stored_at
        before = progress.run.answered_at
        if answered_at and (before is None or before < answered_at):
            progress.run = replace(progress.run, answered_at=answered_at)

    def _conclude(self, answers: list[LookupAnswer], now: datetime, progress: Progress) -> None:
        """Store the answers, and count them."""
        if not answers:
            return
        give_up = self._settings.reconcile_give_up
        verifying = self._verifying.intersection(answer.reference_id for answer in answers)
        conclusions = self._writer.conclude(answers, now, give_up=give_up, verifying=verifying)
        self._verifying -= verifying
        for answer in answers:
            self._leases.pop(answer.reference_id, None)
        counts = Counter(conclusions)
        run = progress.run
        progress.run = replace(
            run,
            checked=run.checked + len(answers),
            settled=run.settled + counts["settled"],
            pending=run.pending + counts["pending"],
            not_found=run.not_found + counts["not_found"],
            failed=run.failed + counts["failed"],
            gave_up=run.gave_up + counts["gave_up"],
        )
        for answer, conclusion in zip(answers, conclusions, strict=True):
            if conclusion == "failed":
                progress.failures.note(answer)

    def _finish(
        self, dispatcher: Dispatcher, due: Due, limit: int | None, progress: Progress, *, interrupted: bool
    ) -> None:
        """Release what was not asked about, and record how the run ended."""
        progress.ended, progress.refused_code = dispatcher.ended, dispatcher.refused_code
        progress.unanswered = dispatcher.unanswered
        self._release()
        if dispatcher.ended or interrupted:
            left, _ = self._reader.due(due, 0)
            progress.unasked = left if limit is None else min(left, limit - progress.run.checked)
        now, answered_at = self._clock.now(), progress.run.answered_at
        if answered_at and not dispatcher.unanswered and now - answered_at < _AT_ONCE:
            # What failed in this run failed before that, whatever changes its calls later.
            progress.run = replace(progress.run, answered_at=now)
        outcome = _outcome_of(progress, interrupted=interrupted)
        progress.run = replace(progress.run, finished_at=now, seen_at=now, outcome=outcome)
        runs.save_run(self._database, progress.run)

    def _release(self) -> None:
        if self._leases:
            claims.release(self._database, self._leases)
            self._leases.clear()


def _outcome_of(progress: Progress, *, interrupted: bool) -> RunOutcome:
    if progress.ended == "refused":
        return "refused"
    if interrupted and progress.unasked:
        return "interrupted"
    return "failures" if progress.run.failed or progress.unasked or progress.ended else "done"
