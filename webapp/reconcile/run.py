"""The reconcile run: asks eSMS about every call that is due, politely, and lets the rule decide on each answer.

Calls are claimed a few at a time, so that many runs share the work; no transaction is open while eSMS is being asked.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from webapp.esms import parameters
from webapp.reconcile.dispatcher import Dispatcher, Ending
from webapp.storage.claims import Claimed, Due
from webapp.storage.errors import Unavailable
from webapp.storage.filters import EVERY_CALL, CallFilter
from webapp.storage.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from webapp.esms.client import Client
    from webapp.esms.lookup import LookupAnswer
    from webapp.storage.reader import Reader
    from webapp.storage.runs import Outcome
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

_SAVE_SECONDS = 2.0
_CLOCK_SECONDS = 10.0
_SLOW_SECONDS = 0.5
"""A reading of the clock that took longer may be as much behind, and is not told on."""
_LEASE_TIMEOUTS = 3
"""A lease lasts so many times ESMS_TIMEOUT: who runs this may count on it, also where that is a second."""
NAMED_FAILURES = 20
"""So many calls are named for each way in which look-ups failed."""


@dataclass(slots=True)
class Progress:
    """What a run has done so far; given to whoever watches. ``pace`` is look-ups a second so far."""

    run: Run
    due: int
    failures: Counter[str] = field(default_factory=Counter)
    failed_calls: list[tuple[str, str]] = field(default_factory=list)
    pace: float = 0.0
    refused_code: str | None = None
    ended: Ending | None = None
    unheard: Counter[str] = field(default_factory=Counter)
    slowed: int = 0
    unasked: int = 0
    other_at_work: bool = False


def lease_of(settings: Settings) -> timedelta:
    """For how long a claim holds, and how long after a run's last sign of life it is taken for dead."""
    return _LEASE_TIMEOUTS * settings.esms_timeout


def due_at(
    now: datetime, settings: Settings, *, grace: timedelta | None = None, within: CallFilter = EVERY_CALL
) -> Due:
    """The calls that are due now; ``grace`` is how long a callback may take, if not as the settings say."""
    return Due(
        placed_by=now - (settings.reconcile_grace if grace is None else grace),
        due_by=now,
        verify=settings.verify,
        verify_since=now - settings.reconcile_give_up,
        within=within,
    )


class Clock:
    """The database's clock, which counts for all machines; asked now and then, and told on by this machine's own."""

    def __init__(self, read: Callable[[], datetime]) -> None:
        """``read`` asks the database."""
        self._read = read
        self._read_at = float("-inf")
        self._was: datetime

    def now(self) -> datetime:
        """The time, never ahead of the database's; raises ``database.Unavailable``."""
        asked_at = time.monotonic()
        if asked_at - self._read_at > _CLOCK_SECONDS:
            was, read_at = self._read(), time.monotonic()
            if read_at - asked_at > _SLOW_SECONDS:
                return was
            self._was, self._read_at = was, read_at
        return self._was + timedelta(seconds=time.monotonic() - self._read_at)


class _Claims(NamedTuple):
    """Calls that this run may ask about until then, in monotonic seconds; ``elsewhere``: from the order's other end."""

    calls: list[Claimed]
    until: float
    elsewhere: bool


_NONE = _Claims([], 0.0, elsewhere=False)


class Reconciler:
    """One run."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        client: Client,
        settings: Settings,
        clock: Clock,
        *,
        silence_is_outage: bool = False,
    ) -> None:
        """Prepare; nothing is asked yet.

        With ``silence_is_outage`` look-ups without a sign of life are charged to no call, however few they are, if all
        of the run are such: for whoever soon runs again.
        """
        self._writer = writer
        self._reader = reader
        self._client = client
        self._settings = settings
        self._clock = clock
        self._silence_is_outage = silence_is_outage
        self._lease = lease_of(settings)
        self._claims: dict[str, datetime] = {}
        self._verifying: set[str] = set()
        self._abandoned: Run | None = None
        self._handed_in = 0
        self._all_claimed = False
        self._saved_at = time.monotonic()
        self._kept_at = 0.0

    def run(self, due: Due, *, limit: int | None, stop: Event, watch: Callable[[Progress], None]) -> Progress:
        """Ask about every call that is due, once; ``stop`` lets it finish what is in flight and end.

        Raises ``database.Unavailable``; claimed calls are then free again when their lease is over.
        """
        number, _ = self._reader.due(due, 0)
        number = number if limit is None else min(number, limit)
        now = self._clock.now()
        progress = Progress(run=Run(id=parameters.new_id(), started_at=now, host=socket.gethostname()), due=number)
        try:
            with Dispatcher(self._client, self._writer, self._settings) as dispatcher:
                first = self._claim(dispatcher, due, limit)
                if number and not first.calls:
                    progress.other_at_work = True
                    return progress
                self._writer.start_run(progress.run, lease=self._lease)
                due = self._hand_in(dispatcher, due, first)
                self._work(dispatcher, due, limit, progress, stop, watch)
                self._finish(progress, _outcome(progress, interrupted=stop.is_set()))
        except BaseException:
            # Nothing is on its way to eSMS any more: what is given back may be asked about by others at once.
            self._abandoned = replace(progress.run, outcome="died")
            with suppress(Unavailable):
                self.abandon()
            raise
        return progress

    def abandon(self) -> None:
        """After the run was broken off: close it, and give back its calls; once the database is there."""
        if self._abandoned:
            self._release()
            self._writer.save_run(replace(self._abandoned, finished_at=self._clock.now()))
            self._abandoned = None

    def _release(self) -> None:
        if self._claims:
            self._writer.release_claims(self._claims)
            self._claims.clear()

    def _finish(self, progress: Progress, outcome: Outcome) -> None:
        now = self._clock.now()
        progress.run = replace(progress.run, finished_at=now, seen_at=now, outcome=outcome)
        self._writer.save_run(progress.run)

    def _work(
        self,
        dispatcher: Dispatcher,
        due: Due,
        limit: int | None,
        progress: Progress,
        stop: Event,
        watch: Callable[[Progress], None],
    ) -> None:
        begun_at, all_due = time.monotonic(), due
        while not (dispatcher.idle and (self._all_claimed or dispatcher.ended or stop.is_set())):
            if stop.is_set():
                dispatcher.close()
            elif not dispatcher.ended:
                due = self._hand_in(dispatcher, due, self._claim(dispatcher, due, limit))
            self._conclude(dispatcher.answers(), progress)
            self._show_life(dispatcher, progress)
            progress.slowed = dispatcher.slowed
            progress.pace = progress.run.checked / (time.monotonic() - begun_at)
            watch(progress)
        self._conclude(dispatcher.failures(silence_is_outage=self._silence_is_outage), progress)
        watch(progress)
        progress.ended, progress.refused_code = dispatcher.ended, dispatcher.refused_code
        progress.unheard = dispatcher.unheard
        self._release()
        if dispatcher.ended or stop.is_set():
            left_due, _ = self._reader.due(all_due, 0)
            progress.unasked = left_due if limit is None else min(left_due, limit - progress.run.checked)

    def _claim(self, dispatcher: Dispatcher, due: Due, limit: int | None) -> _Claims:
        """Claim calls, as far as there is room."""
        capacity = dispatcher.capacity if limit is None else min(dispatcher.capacity, limit - self._handed_in)
        if self._all_claimed or not capacity:
            self._all_claimed |= limit == self._handed_in
            return _NONE
        here, now = time.monotonic(), self._clock.now()
        until, elsewhere = now + self._lease, dispatcher.doubtful
        claimed = self._writer.claim(due, capacity, now=now, until=until, elsewhere=elsewhere)
        self._all_claimed = not claimed
        self._handed_in += len(claimed)
        self._claims.update(dict.fromkeys((call.reference_id for call in claimed), until))
        return _Claims(claimed, here + self._lease.total_seconds(), elsewhere)

    def _hand_in(self, dispatcher: Dispatcher, due: Due, claims: _Claims) -> Due:
        """Have eSMS asked about these calls; what is still due then."""
        dispatcher.ask((call.reference_id for call in claims.calls), claims.until)
        confirming = [call for call in claims.calls if call.verifying]
        self._verifying.update(call.reference_id for call in confirming)
        if not confirming or claims.elsewhere:
            return due
        return replace(due, verify_since=max(call.placed_at for call in confirming))

    def _show_life(self, dispatcher: Dispatcher, progress: Progress) -> None:
        """Now and then write what was done so far, and keep what is in hand: a run that is killed leaves its traces."""
        here, often = time.monotonic(), self._lease.total_seconds() / 6
        if here - self._saved_at < min(_SAVE_SECONDS, often):
            return
        self._saved_at = here
        progress.run = replace(progress.run, seen_at=self._clock.now())
        self._writer.save_run(progress.run)
        if here - self._kept_at > often and (in_hand := dispatcher.in_hand):
            until = self._clock.now() + self._lease
            kept = self._writer.renew_claims(
                {reference_id: self._claims[reference_id] for reference_id in in_hand}, until
            )
            self._claims.update(dict.fromkeys(kept, until))
            dispatcher.lose(set(in_hand) - kept)
            dispatcher.keep(here + self._lease.total_seconds())
            self._kept_at = here

    def _conclude(self, answers: list[LookupAnswer], progress: Progress) -> None:
        if not answers:
            return
        give_up = self._settings.reconcile_give_up
        verifying = self._verifying.intersection(answer.reference_id for answer in answers)
        conclusions = self._writer.conclude(answers, self._clock.now(), give_up=give_up, verifying=verifying)
        self._verifying -= verifying
        for answer in answers:
            self._claims.pop(answer.reference_id, None)
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
                progress.failures[answer.code] += 1
                if progress.failures[answer.code] <= NAMED_FAILURES:
                    progress.failed_calls.append((answer.reference_id, answer.code))


def _outcome(progress: Progress, *, interrupted: bool) -> Outcome:
    if progress.ended == "refused":
        return "refused"
    if interrupted and progress.unasked:
        return "interrupted"
    return "failures" if progress.run.failed or progress.unasked or progress.ended else "done"
