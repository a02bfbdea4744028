"""How this process waits: in greenlets under the server, where all I/O gives way by itself; plainly elsewhere.

SQLite's calls and file syncs give way to nobody, so under the server they go to threads of their own.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def _unpatched_sleep() -> Callable[[float], None]:
    monkey = sys.modules.get("gevent.monkey")
    sleep: Callable[[float], None] = monkey.get_original("time", "sleep") if monkey else time.sleep
    return sleep


_sleep = _unpatched_sleep()


def in_greenlets() -> bool:
    """Whether gevent has made this process's waiting cooperative."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def at_most(seconds: float) -> AbstractContextManager[Any]:
    """Raise TimeoutError if the block lasts longer, under the server; elsewhere whoever waits must bound it himself."""
    if not in_greenlets():
        return nullcontext()
    import gevent  # noqa: PLC0415 - the server's alone

    return gevent.Timeout(seconds, TimeoutError)  # type: ignore[no-any-return]


def nap(seconds: float) -> None:
    """Let this very thread sleep, which is cheap, and right where work is done aside."""
    _sleep(seconds)


def give_way() -> None:
    """Let other greenlets go on, in the middle of what would keep them waiting; elsewhere nobody waits."""
    if in_greenlets() and not _here.aside:
        import gevent  # noqa: PLC0415 - the server's alone

        gevent.sleep(0)


def directly(work: Callable[[], Result]) -> Result:
    """Do the work here and now."""
    return work()


class Aside:
    """Does blocking work aside, in at most so many threads, while other greenlets go on; without greenlets, at once."""

    def __init__(self, threads: int) -> None:
        """Start no thread yet: the process may still fork."""
        self._threads = threads
        self._pool: Any = None

    def __call__(self, work: Callable[[], Result]) -> Result:
        """What the work gives, or raises."""
        if not in_greenlets():
            return work()
        if self._pool is None:
            from gevent.threadpool import ThreadPool  # noqa: PLC0415 - the server's alone

            self._pool = ThreadPool(self._threads)
        # An error is carried out of the pool as a value: gevent would print every one of them, past the log.
        outcome: Result | _Raised = self._pool.apply(lambda: _tried(work))
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class _Here(threading.local):
    """What is so in one thread alone."""

    aside = False


_here = _Here()


def _tried(work: Callable[[], Result]) -> Result | _Raised:
    _here.aside = True
    try:
        return work()
    except BaseException as error:  # noqa: BLE001 - whoever asked for the work gets it
        return _Raised(error)
