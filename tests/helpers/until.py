"""Waits for a condition."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def until(
    condition: Callable[[], object], seconds: float = 20, what: str = "it happens", *, pause: float = 0.03
) -> None:
    """Return as soon as the condition holds, looking every ``pause`` seconds; fail if it does not in time."""
    # Attempts are counted: a test may have set the clock.
    for _ in range(round(seconds / pause)):
        if condition():
            return
        time.sleep(pause)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
