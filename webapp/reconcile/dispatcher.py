"""Keeps look-ups in flight: several at a time, at the shared rate, and only while eSMS answers.

What an answer means for its call is decided in ``storage.writer``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from webapp.esms.lookup import LookupAnswer, LookupRequest, code_class
from webapp.storage.lookup_latencies import Latencies

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from webapp.esms.client import Client
    from webapp.reconcile.rate_limiter import RateLimiter
    from webapp.support.settings import Settings

Ending = Literal["refused", "no answer"]
"""Why a run ends early: eSMS refuses the account, or does not answer."""

NO_ANSWER_LIMIT = 30
"""Look-ups in a row without an answer, after which eSMS is taken to be down."""
UNANSWERED_LIMIT = 60
"""Look-ups that leave between two answers, at most; so no more than these are ever in flight."""
REPEATS = 3
"""How often a call whose look-up was rate-limited is asked about again in one run."""

_TICK_SECONDS = 0.1
_BATCH_SECONDS = 0.2
"""How long answers are gathered, to be concluded in one transaction."""
_LEASE_MARGIN_SECONDS = 1.0
"""From the latest answer to the end of its call's lease: the clocks of two machines may differ a little."""


@dataclass(slots=True)
class _Call:
    """A call that is asked about. ``lease_until`` is in monotonic seconds.

    ``repeats`` counts the look-ups that were repeated, because eSMS rate-limited them: ``rate_limited`` is its last
    such answer.
    """

    request: LookupRequest
    lease_until: float
    repeats: int = 0
    rate_limited: LookupAnswer | None = None


@dataclass(frozen=True, slots=True)
class _Finished:
    """What became of one look-up. ``answer`` None: it did not leave. ``left_at`` is in monotonic seconds.

    ``seconds``: how long it took.
    """

    reference_id: str
    answer: LookupAnswer | None
    left_at: float
    seconds: float = 0.0


class Dispatcher:
    """The look-ups of one run. Calls go in by ``ask``, answers to be concluded come out of ``answers``.

    Once it has ``ended``, no look-up leaves any more. Use it in a ``with`` block. Its methods raise ``Unavailable``.
    """

    def __init__(self, client: Client, rate_limiter: RateLimiter, settings: Settings) -> None:
        """Ask nothing yet."""
        self._client = client
        self._rate_limiter = rate_limiter
        self._concurrency = min(settings.reconcile_concurrency, UNANSWERED_LIMIT)
        self._longest_look_up = settings.esms_timeout.total_seconds() + _LEASE_MARGIN_SECONDS
        self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="look-up")
        self._calls: dict[str, _Call] = {}
        self._waiting: deque[str] = deque()
        self._in_flight: set[str] = set()
        self._finished: queue.SimpleQueue[Future[_Finished]] = queue.SimpleQueue()
        self._closed = False
        self._counting = threading.Lock()
        self._unjudged = self._repeated = 0
        self._slowing_down = threading.Lock()
        self._slowed_down_at = 0.0
        self.slowed_down = 0
        """How often eSMS wanted to be asked more slowly."""
        self.unanswered: Counter[str] = Counter()
        """The codes of the look-ups since the last answer."""
        self.answered_at: float | None = None
        """When eSMS last gave any answer, an error code included, in monotonic seconds."""
        self.clock_ahead: timedelta | None = None
        """How far this machine's clock is ahead of eSMS's (behind it: negative), by its last answer that has a Date."""
        self.latencies = Latencies()
        """How long look-ups took, by their codes: repeated and refused ones, too."""
        self.ended: Ending | None = None
        self.refused_code: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the look-ups in flight, ignore their answers, and close every connection."""
        self.close()
        self._threads.shutdown()
        self._client.close()

    @property
    def idle(self) -> bool:
        """Whether no look-up is in flight, or will be."""
        return not self._in_flight and not self._waiting

    @property
    def capacity(self) -> int:
        """How many more calls to ask about now: few, so that few stay claimed if this process is killed."""
        if self.ended:
            return 0
        free = self._limit - len(self._in_flight) - len(self._waiting)
        return max(0, free) if free >= self._concurrency // 2 or self.idle else 0

    @property
    def _limit(self) -> int:
        """How many look-ups may be in flight or about to leave."""
        return min(2 * self._concurrency, UNANSWERED_LIMIT - self.unanswered.total() - self._repeated)

    @property
    def unconcluded(self) -> list[str]:
        """The calls that still may be asked about, or whose answer is still to come, by the leases they have."""
        now = time.monotonic()
        return [reference_id for reference_id, call in self._calls.items() if now < call.lease_until]

    def ask(self, requests: Iterable[LookupRequest], lease_until: float) -> None:
        """Ask about these calls once each; only while their answer comes before the lease ends (monotonic seconds)."""
        for request in requests:
            reference_id = request.reference_id
            call = self._calls.setdefault(reference_id, _Call(request, lease_until))
            call.request, call.lease_until = request, lease_until
            if reference_id not in self._in_flight and reference_id not in self._waiting:
                self._waiting.append(reference_id)
        self._dispatch()

    def renew(self, reference_ids: Iterable[str], lease_until: float) -> None:
        """These calls' leases last until then."""
        for reference_id in reference_ids:
            self._calls[reference_id].lease_until = lease_until

    def abandon(self, reference_ids: Iterable[str]) -> None:
        """Ask no more about these calls: other runs have claimed them."""
        self.renew(reference_ids, float("-inf"))

    def close(self) -> None:
        """Let no look-up leave any more; those in flight still bring their answers."""
        self._closed = True
        self._rate_limiter.close()

    def answers(self) -> list[LookupAnswer]:
        """Wait a moment for answers; those to be concluded now, each charged to its call."""
        concluded: list[LookupAnswer] = []
        timeout, batch_ends_at = _TICK_SECONDS, 0.0
        while len(concluded) < self._concurrency and timeout > 0:
            self._dispatch()
            if self.idle:
                break
            try:
                finished = self._finished.get(timeout=timeout).result()
            except queue.Empty:
                break
            self._in_flight.discard(finished.reference_id)
            if answer := self._judge(finished):
                concluded.append(answer)
            batch_ends_at = batch_ends_at or time.monotonic() + _BATCH_SECONDS
            timeout = batch_ends_at - time.monotonic()
        for answer in concluded:
            self._calls.pop(answer.reference_id, None)
        return concluded

    def _dispatch(self) -> None:
        """Give waiting calls to the threads, as many as may leave before the next answer."""
        while self._waiting and (self._closed or len(self._in_flight) < self._limit):
            reference_id = self._waiting.popleft()
            self._in_flight.add(reference_id)
            self._threads.submit(self._look_up, reference_id).add_done_callback(self._finished.put)

    def _look_up(self, reference_id: str) -> _Finished:
        """In a thread: ask about the call in the next slot, if its answer then comes before its lease ends."""
        call = self._calls[reference_id]
        if self._rate_limiter.wait():
            left_at = time.monotonic()
            if left_at + self._longest_look_up < call.lease_until and self._may_leave():
                answer = self._client.look_up(call.request, may_repeat=partial(self._may_leave, again=True))
                if answer.slows_down:  # in this thread: before it takes the slot of its next look-up
                    self._slow_down(answer, left_at)
                return _Finished(reference_id, answer, left_at, time.monotonic() - left_at)
        return _Finished(reference_id, None, 0.0)

    def _may_leave(self, *, again: bool = False) -> bool:
        """In a thread: whether one more request may leave before the next answer.

        ``again``: that of the same look-up, on a new connection.
        """
        with self._counting:
            may = self.unanswered.total() + self._unjudged + self._repeated < UNANSWERED_LIMIT
            if again:
                self._repeated += may
            else:
                self._unjudged += may
            return may

    def _judge(self, finished: _Finished) -> LookupAnswer | None:
        """The answer, if it is to be concluded; sees to what it means for the run."""
        answer = finished.answer
        if answer is None:
            return self._not_left(finished.reference_id)
        if answer.clock_ahead is not None:
            self.clock_ahead = answer.clock_ahead
        self.latencies.note(code_class(answer.code), finished.seconds)
        self._count(answer)
        if answer.refused:
            self._end("refused")
            self.refused_code = answer.code
            return None
        if self.unanswered.total() >= NO_ANSWER_LIMIT:
            self._end("no answer")
        return None if self._repeat(answer) else answer

    def _count(self, answer: LookupAnswer) -> None:
        with self._counting:
            self._unjudged -= 1
            if not answer.answered:
                self.unanswered[answer.code] += 1
                return
            self.answered_at = time.monotonic()
            if not self.ended:
                self.unanswered.clear()
                self._repeated = 0

    def _not_left(self, reference_id: str) -> LookupAnswer | None:
        """What to do with a call whose look-up did not leave: its lease is too short, or all is closed."""
        call = self._calls[reference_id]
        if self.ended == "no answer":
            return call.rate_limited  # its last look-up had a 503: now it is charged
        if not self._closed and time.monotonic() < call.lease_until:
            self._waiting.append(reference_id)
        return None

    def _repeat(self, answer: LookupAnswer) -> bool:
        """Whether to ask about the call once more in this run, because eSMS was asked too fast."""
        call = self._calls[answer.reference_id]
        if not answer.rate_limited or call.repeats >= REPEATS:
            return False
        if not answer.answered and self.answered_at is None:
            return False
        call.repeats += 1
        call.rate_limited = answer
        self._waiting.append(answer.reference_id)
        return True

    def _slow_down(self, answer: LookupAnswer, left_at: float) -> None:
        """Halve the rate, once for all look-ups that left at the same rate; pause if eSMS says for how long."""
        with self._slowing_down:
            self.slowed_down += 1
            first = left_at >= self._slowed_down_at
            if first or answer.retry_after_seconds is not None:
                self._rate_limiter.slow_down(answer.retry_after_seconds, halve=first)
                self._slowed_down_at = time.monotonic()

    def _end(self, ending: Ending) -> None:
        self.ended = self.ended or ending
        self.close()
