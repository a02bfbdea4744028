"""Asks eSMS about calls that are handed in: several at a time, at the shared pace, and only while eSMS can be asked.

What an answer means for its call is for others to say.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from webapp.esms import lookup as esms_lookup
from webapp.esms.lookup import LookupAnswer
from webapp.reconcile.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.esms.client import Client
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

Ending = Literal["refused", "down", "too fast"]

_TICK_SECONDS = 0.02
_BATCH_SECONDS = 0.1
_IN_ORDER = 40
"""So many look-ups without a sign of life, or on their way, and only calls from elsewhere in the order may follow."""
_DOWN_AFTER = 56
"""So many in a row without a sign of life, those from elsewhere included, and eSMS is down."""
_DOUBTFUL_AFTER = 24
_DOWN_AT_THE_END = 30
"""Once nothing is left to ask about, so many are enough, if eSMS gave no sign of life in the whole run."""
_TRIES = 3
"""So often a call is asked about in a run where eSMS says that we ask too fast, but not for how long to wait."""
_LEAVE_SECONDS = 1.0
"""So long before a call may be another's its answer must be there: clocks and claims may be a little apart."""
_TOO_FAST_LIMIT = 20
"""So often in a row eSMS may say that we ask too fast; then the run ends."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """An answer, and when its look-up left, in monotonic seconds; None if it did not leave."""

    reference_id: str
    answer: LookupAnswer | None
    left_at: float


class Dispatcher:
    """Look-ups under way. Calls are handed in; what is to be concluded comes out, in batches as it comes.

    A call for which eSMS says that we ask too fast is asked about again. Look-ups without a sign of life from eSMS are
    held back until it gives one: if it gives none any more, they are no failures of their calls. Once it ``ended``
    nothing more leaves. Use it in a ``with`` block. Its methods raise ``database.Unavailable``.
    """

    def __init__(self, client: Client, writer: Writer, settings: Settings) -> None:
        """Ask nothing yet."""
        self._client = client
        self._concurrency = settings.reconcile_concurrency
        at_once = max(1, min(self._concurrency // 2, settings.reconcile_rate // 4))
        self._rate_limiter = RateLimiter(writer, settings.reconcile_rate, at_once)
        self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="look-up")
        self._lasting = settings.esms_timeout.total_seconds() + _LEAVE_SECONDS
        self._asking: set[Future[_Looked]] = set()
        self._on_their_way: set[str] = set()
        self._closed = False
        self._until: dict[str, float] = {}
        self._come: list[_Looked] = []
        self._batch_until = 0.0
        self._held: list[LookupAnswer] = []
        self._tries: Counter[str] = Counter()
        self._alive = False
        self._slowed_at = 0.0
        self._slowed_in_a_row = 0
        self.slowed = 0
        self.unheard: Counter[str] = Counter()
        """How look-ups failed since eSMS gave its last sign of life, by code."""
        self.ended: Ending | None = None
        self.refused_code: str | None = None

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is on its way come in, unheard; close every connection."""
        self.close()
        self._threads.shutdown()
        self._client.close()

    @property
    def in_hand(self) -> list[str]:
        """The calls that were handed in, did not come out, and may still be asked about."""
        now = time.monotonic()
        return [reference_id for reference_id, until in self._until.items() if now < until]

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way any more."""
        return not self._asking and not self._come

    @property
    def capacity(self) -> int:
        """How many more calls may be handed in: few, so that few are held up should this process be killed."""
        if self.ended:
            return 0
        capacity = 2 * self._concurrency - self._under_way
        if self.unheard or not self._alive:
            capacity = min(capacity, self._unheard_room)
        capacity = max(0, capacity)
        return capacity if capacity >= self._concurrency // 2 or self.unheard or self.idle else 0

    @property
    def doubtful(self) -> bool:
        """Whether it may be these calls that fail, and not eSMS: some from elsewhere in the order would tell."""
        silent = self.unheard.total()
        return silent >= _DOUBTFUL_AFTER and silent + self._under_way >= _IN_ORDER

    @property
    def _unheard_room(self) -> int:
        """How many more may leave before eSMS gives a sign of life; below 0 where more are on their way already."""
        most = _DOWN_AFTER if self.doubtful else _IN_ORDER
        return most - self.unheard.total() - self._under_way

    @property
    def _under_way(self) -> int:
        return len(self._asking) + len(self._come)

    def ask(self, reference_ids: Iterable[str], until: float) -> None:
        """Ask about these calls when their turn comes, if the answer is there by ``until``, in monotonic seconds."""
        for reference_id in reference_ids:
            self._until[reference_id] = until
            if reference_id not in self._on_their_way:
                self._on_their_way.add(reference_id)
                self._asking.add(self._threads.submit(self._look_up, reference_id))

    def keep(self, until: float) -> None:
        """Let what is in hand be asked about until then."""
        self._until.update(dict.fromkeys(self.in_hand, until))

    def lose(self, reference_ids: Iterable[str]) -> None:
        """Ask no more about these calls: others do."""
        self._until.update(dict.fromkeys(reference_ids, float("-inf")))

    def close(self) -> None:
        """Let no look-up leave any more; what is on its way still comes in."""
        self._closed = True
        self._rate_limiter.close()

    def answers(self) -> list[LookupAnswer]:
        """What is to be concluded now; waits for it a moment."""
        self._gather()
        if time.monotonic() < self._batch_until and len(self._come) < self._concurrency and self._asking:
            return []
        given: list[LookupAnswer] = []
        while self._come:
            given += self._weigh(self._come.pop(0))
        if self.ended:
            self.close()
        return self._give(given)

    def failures(self, *, silence_is_outage: bool = False) -> list[LookupAnswer]:
        """At the end: the look-ups that were held back, which failed, unless it was eSMS that did.

        With ``silence_is_outage`` that is so however few they are, if eSMS gave no sign of life at all.
        """
        enough = _IN_ORDER if self._alive else 1 if silence_is_outage else _DOWN_AT_THE_END
        if len(self._held) >= enough:
            self.ended = self.ended or "down"
        return [] if self.ended else self._give(self._heard())

    def _give(self, answers: list[LookupAnswer]) -> list[LookupAnswer]:
        for answer in answers:
            self._until.pop(answer.reference_id, None)
            self._tries.pop(answer.reference_id, None)
            self._on_their_way.discard(answer.reference_id)
        return answers

    def _look_up(self, reference_id: str) -> _Looked:
        """In a thread: ask about the call when it is its turn, unless it is another run's by then."""
        self._client.prepare()
        if not self._rate_limiter.wait() or (left_at := time.monotonic()) >= self._until[reference_id] - self._lasting:
            return _Looked(reference_id, None, 0.0)
        return _Looked(reference_id, self._client.look_up(reference_id), left_at)

    def _gather(self) -> None:
        if not self._asking and not self._come:
            time.sleep(_TICK_SECONDS)
        done, self._asking = wait(self._asking, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
        if done and not self._come:
            self._batch_until = time.monotonic() + _BATCH_SECONDS
        come = [future.result() for future in done]
        self._come += come
        if any(looked.answer and looked.answer.too_fast for looked in come):
            self._batch_until = 0.0

    def _weigh(self, looked: _Looked) -> list[LookupAnswer]:
        """The answers that may be concluded now that this one is there."""
        answer = looked.answer
        if answer is None:
            self._on_their_way.discard(looked.reference_id)
            if not self._closed and time.monotonic() < (until := self._until[looked.reference_id]):
                self.ask([looked.reference_id], until)
            return []
        if answer.too_fast:
            self._slow_down(answer, looked.left_at)
            if answer.code == esms_lookup.TOO_FAST or answer.retry_after is not None:
                self._ask_again(answer)
                return []
        if answer.no_sign_of_life:
            self._hold(answer)
            return []
        held = [] if self.ended else self._heard()
        if answer.code in esms_lookup.ACCOUNT_REFUSED:
            self.ended, self.refused_code = "refused", answer.code
            return held
        if not answer.too_fast:
            self._slowed_in_a_row = 0
        elif self._may_try_again(answer):
            self._ask_again(answer)
            return held
        return [*held, answer]

    def _heard(self) -> list[LookupAnswer]:
        """ESMS gave a sign of life: what failed before it did so by itself."""
        self._alive = True
        self.unheard.clear()
        held, self._held = self._held, []
        return held

    def _slow_down(self, answer: LookupAnswer, left_at: float) -> None:
        """Slow down, once for all that left at the same pace."""
        self.slowed += 1
        anew = left_at >= self._slowed_at
        self._slowed_in_a_row += anew
        if anew or answer.retry_after is not None:
            self._rate_limiter.slow_down(answer.retry_after, halve=anew)
            self._slowed_at = time.monotonic()

    def _may_try_again(self, answer: LookupAnswer) -> bool:
        self._tries[answer.reference_id] += 1
        return self._tries[answer.reference_id] < _TRIES

    def _ask_again(self, answer: LookupAnswer) -> None:
        if self._slowed_in_a_row >= _TOO_FAST_LIMIT:
            self.ended = self.ended or "too fast"
        else:
            self._on_their_way.discard(answer.reference_id)
            self.ask([answer.reference_id], self._until[answer.reference_id])

    def _hold(self, answer: LookupAnswer) -> None:
        self.unheard[answer.code] += 1
        if self.unheard.total() >= _DOWN_AFTER:
            self.ended = self.ended or "down"
        if answer.too_fast and self._unheard_room > 0 and not self.ended and self._may_try_again(answer):
            self._ask_again(answer)
        else:
            self._held.append(answer)
