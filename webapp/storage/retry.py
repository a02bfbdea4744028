"""Runs a transaction again that lost to another one: the only place where this program retries a transaction."""

from __future__ import annotations

import functools
import random
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from webapp.storage.errors import TransactionLost

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 10
_LONGEST_PAUSE_SECONDS = 0.05


def retrying(function: Callable[P, T]) -> Callable[P, T]:
    """Run ``function``, which opens a transaction, again when it raises TransactionLost: 10 times in all.

    Nothing of a lost transaction is stored, so the function must change nothing else before it commits.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(ATTEMPTS - 1):
            try:
                return function(*args, **kwargs)
            except TransactionLost:
                # Two transactions that locked each other out would otherwise meet again.
                time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311
        return function(*args, **kwargs)

    return run
