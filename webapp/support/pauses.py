"""Lets other connections be served during long work."""

from __future__ import annotations

import time

_SECONDS = 0.001


def let_others_run() -> None:
    """Pause for a millisecond.

    Under the server a timer ends it, and gevent looks at its sockets before its timers. With ``sleep(0)`` ready
    greenlets would go on up to 50 times before it does.
    """
    time.sleep(_SECONDS)
