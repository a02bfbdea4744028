"""The intake: takes what came to the callback URL, and says what became of it once that is durable.

Reports that wait are stored together in one transaction. What the database cannot take in time goes to the spool, and
from there into the database as soon as it can. A report has its id from its receipt, and storing it again does nothing:
so whatever is in doubt is simply spooled as well.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING_AT_MOST = 2000
"""Reports that wait in one process for one transaction; beyond it the answer is 503."""
_AT_ONCE = 200
_IDLE_SECONDS = 5.0


class Overloaded(Unavailable):
    """More wait than can be stored in time."""


class TooLate(Exception):
    """It was not written in time; it may be yet."""


@dataclass(slots=True)
class _Turn(Generic[Item, Result]):
    item: Item
    done: threading.Event = field(default_factory=threading.Event)
    result: Result | None = None
    error: Exception | None = None
    left: bool = False


class BatchWriter(Generic[Item, Result]):
    """One write at a time, of all that wait: whoever comes meanwhile goes together into the next.

    A lonely item waits for nobody. Its thread (under the server a greenlet) starts when it is needed.
    """

    def __init__(self, write: Callable[[list[Item]], Sequence[Result]]) -> None:
        """``write`` gives one result for each item, in their order; what it raises, all of them get."""
        self._write = write
        self._waiting: deque[_Turn[Item, Result]] = deque()
        self._lock = threading.Lock()
        self._come = threading.Event()
        self._writer: threading.Thread | None = None

    def do(self, item: Item, seconds: float) -> Result:
        """The item's result once it is written; raises what the write raised, TooLate or Overloaded."""
        turn: _Turn[Item, Result] = _Turn(item)
        with self._lock:
            if len(self._waiting) >= WAITING_AT_MOST:
                raise Overloaded(f"{WAITING_AT_MOST} reports are waiting already")
            self._waiting.append(turn)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, daemon=True, name="group-commit")
                self._writer.start()
        self._come.set()
        if not turn.done.wait(seconds):
            turn.left = True
            raise TooLate
        if turn.error:
            raise turn.error
        return turn.result  # type: ignore[return-value]

    def _write_all(self) -> None:
        while True:
            if not self._come.wait(_IDLE_SECONDS):
                with self._lock:
                    if not self._waiting:
                        self._writer = None
                        return
            self._come.clear()
            while self._waiting:
                self._write_some()

    def _write_some(self) -> None:
        turns = self._next()
        if not turns:
            return
        try:
            results = self._write([turn.item for turn in turns])
        except Exception as error:  # noqa: BLE001 - each of them must get it
            for turn in turns:
                turn.error = error
        else:
            for turn, result in zip(turns, results, strict=True):
                turn.result = result
        for turn in turns:
            turn.done.set()

    def _next(self) -> list[_Turn[Item, Result]]:
        turns: list[_Turn[Item, Result]] = []
        while self._waiting and len(turns) < _AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.left:
                turns.append(turn)
        return turns
