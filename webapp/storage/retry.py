"""Runs a transaction again that lost to another one, or got no lock: the only place that retries a transaction."""

from __future__ import annotations

import functools
import logging
import random
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from webapp.storage.errors import InsertedMeanwhile, LockTimeout, TransactionLost

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

ATTEMPTS = 10
_LONGEST_RETRY_PAUSE_SECONDS = 0.05
LOCK_PATIENCE_SECONDS = 60.0
"""Less than the 90 seconds that systemd gives a service to start."""
_LOCK_PAUSE_SECONDS = 2.0
"""Time for those who waited behind the lock, twice as long as they waited."""


def retrying(function: Callable[P, T]) -> Callable[P, T]:
    """Run ``function``, which opens a transaction, again when it raises TransactionLost: 10 times in all.

    Nothing of a lost transaction is stored, so the function must change nothing else before it commits.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(ATTEMPTS - 1):
            try:
                return function(*args, **kwargs)
            except InsertedMeanwhile:
                continue
            except TransactionLost:
                # Two transactions that locked each other out would otherwise meet again.
                time.sleep(random.uniform(0, _LONGEST_RETRY_PAUSE_SECONDS))  # noqa: S311
        return function(*args, **kwargs)

    return run


def lock_retrying(function: Callable[P, T]) -> Callable[P, T]:
    """Run ``function``, which opens a transaction, again when it raises LockTimeout, for a minute.

    A transaction that waits for a strong lock has all others wait behind it. So it waits shortly, and often.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        until = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                return function(*args, **kwargs)
            except LockTimeout as problem:
                if time.monotonic() >= until:
                    raise
                log.warning("%s; trying again", problem)
                time.sleep(_LOCK_PAUSE_SECONDS)

    return run
