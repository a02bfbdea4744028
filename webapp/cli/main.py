"""The program `esms-calls`: runs the command line; Ctrl-C ends it at any moment, without a traceback."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from webapp.cli.exit_codes import INTERRUPTED

if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Run the command line. Imports are done in here, so that Ctrl-C can end the program during them, too."""
    # In the background of a shell SIGINT is ignored, and stays so.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _exit_at_once)
    from webapp.cli.commands import cli  # noqa: PLC0415

    try:
        if interruptible:
            signal.signal(signal.SIGINT, _interrupt)
        cli.main(prog_name="esms-calls")
    finally:
        gc.freeze()  # a quarter of the time of a short command was the search for garbage while Python ends
        if interruptible:
            signal.signal(signal.SIGINT, _exit_at_once)


def _exit_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Let the command tidy up; a second Ctrl-C does not wait for that."""
    signal.signal(signal.SIGINT, _exit_at_once)
    raise KeyboardInterrupt
