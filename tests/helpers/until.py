"""Waits for a condition."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 20, what: str = "it happens") -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    # Attempts are counted: a test may have set the clock.
    for _ in range(round(seconds * 50)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
