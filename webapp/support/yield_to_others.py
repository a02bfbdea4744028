"""Lets other connections be served during long work."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Lock

_SECONDS = 0.001


def is_under_gevent() -> bool:
    """Whether threads are greenlets here, as under the server."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def let_others_run() -> None:
    """Pause for a millisecond.

    Under the server a timer ends it, and gevent looks at its sockets before its timers. With ``sleep(0)`` ready
    greenlets would go on up to 50 times before it does.
    """
    time.sleep(_SECONDS)


@contextmanager
def others_first(lock: Lock, seconds: float) -> Iterator[None]:
    """Let others run before work of some milliseconds, and do it one at a time: several together would hold them up.

    Raises TimeoutError where its time does not come within ``seconds``.
    """
    if not lock.acquire(timeout=seconds):
        raise TimeoutError
    try:
        let_others_run()
        yield
    finally:
        lock.release()


def in_a_thread(work: Callable[[], None]) -> None:
    """Do work that cannot pause. Under the server a thread does it, and other connections are served meanwhile."""
    if not is_under_gevent():
        work()
        return
    from gevent import get_hub  # noqa: PLC0415 - under the server only

    if error := get_hub().threadpool.apply(_error_of, (work,)):
        raise error


def _error_of(work: Callable[[], None]) -> BaseException | None:
    """Returned, not raised: gevent prints every error that leaves a thread."""
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is raised again by the caller
        return error
    return None
