"""The batch writer: which items are written together, and which result or error each sender gets."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from until import until

from webapp.callbacks import batch_writer
from webapp.callbacks.batch_writer import Batch, BatchWriter, Overloaded, TooLate

if TYPE_CHECKING:
    from collections.abc import Iterator


class TenTimes(BatchWriter[int, int]):
    """Writes ten times the item, when it is allowed to go on; 13 fails its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[list[int]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.results: dict[int, object] = {}
        self._senders: list[threading.Thread] = []

    def write_batch(self, batch: Batch[int, int]) -> list[int]:
        batch.collect()
        self.written.append(list(batch.items))
        self.begun.set()
        assert self.go_on.wait(20)
        if 13 in batch.items:
            raise KeyError(13)
        return [item * 10 for item in batch.items]

    def send(self, *items: int, seconds: float = 20) -> None:
        """Write each item from its own thread, which waits ``seconds``; return when all are pending, in order."""

        def send(item: int) -> None:
            try:
                self.results[item] = self.write(item, seconds)
            except Exception as error:  # noqa: BLE001 - the tests look at it
                self.results[item] = type(error)

        for item in items:
            before = len(self._queue)
            self._senders.append(threading.Thread(target=send, args=(item,)))
            self._senders[-1].start()
            until(lambda: item in self.results or len(self._queue) > before or self.written[-1:] == [[item]])  # noqa: B023

    def begin(self) -> None:
        """Have the first item, 0, in the middle of its writing."""
        self.send(0)
        assert self.begun.wait(10)

    def end(self) -> None:
        self.go_on.set()
        for sender in self._senders:
            sender.join(20)


@pytest.fixture
def writer() -> Iterator[TenTimes]:
    writer = TenTimes()
    yield writer
    writer.end()


def test_items_that_arrive_during_a_write_go_into_the_next_batch_each_with_its_result(writer: TenTimes) -> None:
    writer.begin()
    writer.send(1, 2, 3, 4)
    writer.end()

    assert writer.written == [[0], [1, 2, 3, 4]]
    assert writer.results == {0: 0, 1: 10, 2: 20, 3: 30, 4: 40}


def test_a_single_item_is_written_immediately(writer: TenTimes) -> None:
    writer.go_on.set()
    seconds = []
    for item in range(10):
        began = time.monotonic()
        assert writer.write(item, 5) == item * 10
        seconds.append(time.monotonic() - began)

    assert min(seconds) < 0.05
    assert writer.written == [[item] for item in range(10)]


def test_an_error_reaches_the_senders_of_its_batch_and_no_others(writer: TenTimes) -> None:
    writer.begin()
    writer.send(12, 13)
    writer.end()
    writer.write(14, 5)

    assert writer.results == {0: 0, 12: KeyError, 13: KeyError}
    assert writer.written == [[0], [12, 13], [14]]


def test_an_item_whose_sender_gave_up_is_not_written_unless_that_has_begun(writer: TenTimes) -> None:
    writer.send(0, seconds=0.2)
    assert writer.begun.wait(10)
    writer.send(1, 2)
    writer.send(3, seconds=0.1)
    until(lambda: {0, 3} <= writer.results.keys())
    writer.end()

    assert writer.results == {0: TooLate, 1: 10, 2: 20, 3: TooLate}
    assert writer.written == [[0], [1, 2]]


def test_more_items_than_may_be_pending_are_refused_at_once(writer: TenTimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_writer, "MOST_PENDING", 3)
    writer.begin()
    writer.send(1, 2, 3)
    with pytest.raises(Overloaded, match="3 reports are pending already"):
        writer.write(4, 5)
    writer.end()

    assert writer.written == [[0], [1, 2, 3]]


def test_a_batch_has_a_largest_size(writer: TenTimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_writer, "BATCH_SIZE", 3)
    writer.begin()
    writer.send(*range(1, 8))
    writer.end()

    assert writer.written == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_the_thread_ends_when_nothing_is_pending_and_starts_again(
    writer: TenTimes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_writer, "_IDLE_SECONDS", 0.05)
    writer.go_on.set()

    def threads() -> int:
        return sum(thread.name == "batch-writer" for thread in threading.enumerate())

    before = threads()
    for item in (1, 2):
        assert writer.write(item, 5) == item * 10
        until(lambda: threads() <= before)


class Opening(BatchWriter[int, int]):
    """Waits before it collects, as one waits for the lock of a transaction; then it may fail."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.written: list[list[int]] = []
        self.waits = threading.Event()
        self.go_on = threading.Event()
        self._fails = fails

    def write_batch(self, batch: Batch[int, int]) -> list[int]:
        self.waits.set()
        assert self.go_on.wait(20)
        if self._fails:
            raise KeyError
        batch.collect()
        self.written.append(batch.items)
        return batch.items

    def number_pending(self) -> int:
        return len(self._queue)


@pytest.mark.parametrize("fails", [False, True])
def test_items_that_arrive_while_the_transaction_opens_join_the_batch(fails: bool) -> None:  # noqa: FBT001
    writer = Opening(fails=fails)
    with ThreadPoolExecutor(3) as senders:
        sent = [senders.submit(writer.write, 0, 20)]
        assert writer.waits.wait(10)
        sent += [senders.submit(writer.write, item, 20) for item in (1, 2)]
        until(lambda: writer.number_pending() == 3)
        writer.go_on.set()

    if fails:
        assert [type(one.exception()) for one in sent] == [KeyError] * 3
        assert writer.written == []
    else:
        assert [one.result() for one in sent] == [0, 1, 2]
        assert [sorted(items) for items in writer.written] == [[0, 1, 2]]
