"""The reconcile run: asks eSMS about every call that is due, politely, and lets the rule decide on each answer.

Calls are claimed a few at a time, so that two runs share the work; no transaction is open while eSMS is being asked.
"""

from __future__ import annotations

import socket
import time
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pyrate_limiter import Duration, Limiter, Rate

from webapp import esms
from webapp.database import Unavailable
from webapp.store import Due, Run

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from webapp.config import Settings
    from webapp.esms import Answer
    from webapp.lookup import Client
    from webapp.queries import Queries
    from webapp.store import Outcome, Store

_TICK_SECONDS = 0.02
_SAVE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_PAUSES = 8
"""After so many pauses in a row because of code 160 the run ends; its calls stay due."""
_CATCH_UP_SECONDS = 0.05
_LEASE_MARGIN = timedelta(seconds=5)
NAMED_FAILURES = 20
"""So many calls are named for each way in which look-ups failed."""


@dataclass(slots=True)
class Progress:
    """What a run has done so far; given to whoever watches."""

    run: Run
    due: int
    failures: Counter[str] = field(default_factory=Counter)
    failed_calls: list[tuple[str, str]] = field(default_factory=list)
    refused_code: str | None = None
    slowed: int = 0
    unasked: int = 0
    other_at_work: bool = False


def lease_of(settings: Settings) -> timedelta:
    """For how long a claim holds, and how long after a run's last sign of life it is taken for dead."""
    return 3 * settings.esms_timeout + _LEASE_MARGIN


def due_at(now: datetime, grace: timedelta) -> Due:
    """The calls that are due now, a callback being given ``grace`` after its call was placed."""
    return Due(placed_by=now - grace, due_by=now)


class Pace:
    """At most so many look-ups a second; a rest, longer each time in a row, when eSMS says it is too fast.

    They leave evenly spread: bursts that are right here may still meet at eSMS within one second.
    """

    def __init__(self, per_second: int) -> None:
        """Begin at full pace."""
        self._limiter = Limiter(Rate(per_second, Duration.SECOND))
        self._gap = 1 / per_second
        self._next = 0.0
        self._rest_until = 0.0
        self.rests_in_a_row = 0

    @property
    def resting(self) -> bool:
        """Whether this is a pause."""
        return time.monotonic() < self._rest_until

    def may_ask(self) -> bool:
        """Whether a look-up may leave now; if so, it counts."""
        now = time.monotonic()
        if self.resting or now < self._next or not self._limiter.try_acquire("esms", blocking=False):
            return False
        self._next = max(self._next, now - _CATCH_UP_SECONDS) + self._gap
        return True

    def rest(self) -> None:
        """Pause: eSMS is over its limit. Several answers of one moment are one pause."""
        if not self.resting:
            pause = min(_FIRST_PAUSE_SECONDS * 2**self.rests_in_a_row, _LONGEST_PAUSE_SECONDS)
            self._rest_until = time.monotonic() + pause
            self.rests_in_a_row += 1

    def go_on(self) -> None:
        """Be at ease again: the next rest is a short one again."""
        self.rests_in_a_row = 0


class Reconciler:
    """One run."""

    def __init__(self, store: Store, queries: Queries, client: Client, settings: Settings) -> None:
        """Prepare; nothing is asked yet."""
        self._store = store
        self._queries = queries
        self._client = client
        self._settings = settings
        self._pace = Pace(settings.reconcile_rate)
        self._waiting: deque[str] = deque()
        self._asking: dict[Future[Answer], str] = {}
        self._too_fast: set[str] = set()
        self._leases: dict[str, datetime] = {}
        self._all_claimed = False
        self._lease = lease_of(settings)
        self._saved_at = 0.0

    def run(self, *, grace: timedelta, limit: int | None, stop: Event, watch: Callable[[Progress], None]) -> Progress:
        """Ask about every call that is due now, once; ``stop`` lets it finish what is in flight and end.

        Raises ``database.Unavailable``; claimed calls are then free again when their lease is over.
        """
        now = datetime.now(UTC)
        due = due_at(now, grace)
        number, _ = self._queries.due(due, 0)
        number = number if limit is None else min(number, limit)
        progress = Progress(run=Run(id=esms.new_id(), started_at=now, host=socket.gethostname()), due=number)
        self._claim(due, limit, progress)
        if number and not self._waiting:
            progress.other_at_work = True
            return progress
        self._store.start_run(progress.run, lease=self._lease)
        try:
            self._work(due, limit, progress, stop, watch)
            self._finish(progress, _outcome(progress, interrupted=stop.is_set()))
        except BaseException:
            with suppress(Unavailable):
                self._finish(progress, "died")
            raise
        finally:
            self._client.close()
        return progress

    def _finish(self, progress: Progress, outcome: Outcome) -> None:
        progress.run = replace(progress.run, finished_at=datetime.now(UTC), outcome=outcome)
        self._store.save_run(progress.run)

    def _work(
        self, due: Due, limit: int | None, progress: Progress, stop: Event, watch: Callable[[Progress], None]
    ) -> None:
        with ThreadPoolExecutor(self._settings.reconcile_concurrency) as threads:
            while True:
                ended = stop.is_set() or progress.refused_code or self._pace.rests_in_a_row > _MOST_PAUSES
                if not ended:
                    self._claim(due, limit, progress)
                    self._ask(threads)
                if not self._asking and (ended or (self._all_claimed and not self._waiting and not self._too_fast)):
                    break
                self._gather(progress)
                watch(progress)
        if ended:
            self._release(self._waiting)
            self._release(self._too_fast)
            left, _ = self._queries.due(due, 0)
            progress.unasked = left if limit is None else min(left, limit - progress.run.checked)

    def _claim(self, due: Due, limit: int | None, progress: Progress) -> None:
        """Have calls for a second in hand: a run that is killed holds up no more, and each is asked within its lease.

        Once all others were asked about, those that met code 160 have their turn again.
        """
        if self._waiting or self._pace.resting or (self._all_claimed and self._asking):
            return
        if self._all_claimed:
            self._release(self._too_fast)
        settings = self._settings
        wanted = min(settings.reconcile_concurrency, settings.reconcile_rate)
        if limit is not None:
            wanted = min(wanted, limit - progress.run.checked - len(self._asking) - len(self._too_fast))
        if wanted > 0:
            now = datetime.now(UTC)
            until = now + self._lease
            self._waiting.extend(self._store.claim(due, wanted, now=now, until=until))
            self._leases.update(dict.fromkeys(self._waiting, until))
            self._too_fast.difference_update(self._waiting)
        self._all_claimed = len(self._waiting) < max(wanted, 1)

    def _release(self, claimed: deque[str] | set[str]) -> None:
        """Give back what was claimed and is not to be asked about now; whose lease is over may be another run's."""
        now = datetime.now(UTC)
        if ours := [reference_id for reference_id in claimed if now < self._leases.pop(reference_id, now)]:
            self._store.release(ours)
        claimed.clear()

    def _ask(self, threads: ThreadPoolExecutor) -> None:
        while self._waiting and len(self._asking) < self._settings.reconcile_concurrency and self._pace.may_ask():
            reference_id = self._waiting.popleft()
            self._asking[threads.submit(self._client.look_up, reference_id)] = reference_id

    def _gather(self, progress: Progress) -> None:
        """Wait a moment, then store all answers that have come, in one transaction."""
        done, _ = wait(self._asking, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
        if not self._asking:
            time.sleep(_TICK_SECONDS)
        charged = []
        for future in done:
            del self._asking[future]
            answer = future.result()
            if answer.code == esms.TOO_FAST:
                self._pace.rest()
                progress.slowed += 1
                self._too_fast.add(answer.reference_id)
            elif answer.code in esms.ACCOUNT_REFUSED:
                progress.refused_code = answer.code
                self._waiting.append(answer.reference_id)
            else:
                self._pace.go_on()
                charged.append(answer)
        if charged:
            self._conclude(charged, progress)
        self._show_life(progress)
        if self._waiting and self._pace.resting:
            self._release(self._waiting)
            self._all_claimed = False

    def _show_life(self, progress: Progress) -> None:
        """Write what was done so far, now and then: a run that is killed has told it, and one that lives is known."""
        if time.monotonic() - self._saved_at >= _SAVE_SECONDS:
            progress.run = replace(progress.run, seen_at=datetime.now(UTC))
            self._store.save_run(progress.run)
            self._saved_at = time.monotonic()

    def _conclude(self, answers: list[Answer], progress: Progress) -> None:
        give_up = self._settings.reconcile_give_up
        conclusions = self._store.conclude(answers, datetime.now(UTC), give_up=give_up)
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
            self._leases.pop(answer.reference_id, None)
            if conclusion == "failed":
                progress.failures[answer.code] += 1
                if progress.failures[answer.code] <= NAMED_FAILURES:
                    progress.failed_calls.append((answer.reference_id, answer.code))


def _outcome(progress: Progress, *, interrupted: bool) -> Outcome:
    if progress.refused_code:
        return "refused"
    if interrupted and progress.unasked:
        return "interrupted"
    return "failures" if progress.run.failed or progress.unasked else "done"
