"""Group commit: writes many pending items in one transaction, one transaction at a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from webapp.storage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_PENDING = 2000
"""Items that may be pending in one process. More are refused at once (503)."""
BATCH_SIZE = 200
_IDLE_SECONDS = 5.0


class Overloaded(Unavailable):
    """More items are pending than can be written in time."""


class TooLate(Exception):
    """The item was not written in time. It may be written later."""


@dataclass(slots=True)
class Pending(Generic[Item, Result]):
    """An item whose sender waits for its result."""

    item: Item
    done: threading.Event = field(default_factory=threading.Event)
    result: Result | None = None
    error: Exception | None = None
    abandoned: bool = False


@dataclass(slots=True)
class Batch(Generic[Item, Result]):
    """Items to be written in one transaction; with a ``queue``, what is pending there when the batch is collected."""

    items: list[Item] = field(default_factory=list)
    queue: deque[Pending[Item, Result]] = field(default_factory=deque)
    pending: list[Pending[Item, Result]] = field(default_factory=list)

    def collect(self) -> None:
        """Add what is pending. Call it in the open transaction: what arrived during the wait for it is added."""
        while self.queue and len(self.pending) < BATCH_SIZE:
            pending = self.queue.popleft()
            if not pending.abandoned:
                self.pending.append(pending)
                self.items.append(pending.item)


class BatchWriter(ABC, Generic[Item, Result]):
    """Writes items from many threads. A single item is written immediately.

    Its thread (under the server a greenlet) starts when it is needed.
    """

    def __init__(self) -> None:
        """Start nothing yet: the process may still fork."""
        self._queue: deque[Pending[Item, Result]] = deque()
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def write_batch(self, batch: Batch[Item, Result]) -> Sequence[Result | Exception]:
        """Collect the batch and write it in one transaction; one result for each item, in their order.

        The result of an item that alone cannot be written is the error.
        """

    def write(self, item: Item, seconds: float) -> Result:
        """The item's result once it is written; raises its own error, its batch's, TooLate or Overloaded."""
        pending: Pending[Item, Result] = Pending(item)
        with self._lock:
            if len(self._queue) >= MOST_PENDING:
                raise Overloaded(f"{MOST_PENDING} reports are pending already")
            self._queue.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="batch-writer")
                self._thread.start()
        self._arrived.set()
        if not pending.done.wait(seconds):
            pending.abandoned = True
            raise TooLate
        if pending.error:
            raise pending.error
        return pending.result  # type: ignore[return-value]

    def _run(self) -> None:
        while True:
            if not self._arrived.wait(_IDLE_SECONDS):
                with self._lock:
                    if not self._queue:
                        self._thread = None
                        return
            self._arrived.clear()
            while self._queue:
                self._write_next_batch()

    def _write_next_batch(self) -> None:
        batch: Batch[Item, Result] = Batch(queue=self._queue)
        try:
            results = list(zip(batch.pending, self.write_batch(batch), strict=True))
        except Exception as error:  # noqa: BLE001 - the senders of these items get it
            if not batch.pending:
                batch.collect()
            results = [(pending, error) for pending in batch.pending]
        for pending, result in results:
            if isinstance(result, Exception):
                pending.error = result
            else:
                pending.result = result
            pending.done.set()
