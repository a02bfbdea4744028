"""Ctrl-C and SIGTERM end a command that finishes first what it has begun, whenever they come."""

from __future__ import annotations

import signal

import pytest

from webapp.cli.signals import stop_at_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.timeout(20)
def test_a_signal_that_comes_while_the_event_is_looked_at_sets_it(number: signal.Signals) -> None:
    with stop_at_signals() as stop:
        with stop._cond:  # type: ignore[attr-defined] # noqa: SLF001 - as its own wait() does
            signal.raise_signal(number)
        assert stop.wait(10)
