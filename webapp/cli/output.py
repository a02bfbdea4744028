"""The one way in which commands print: nothing from outside reaches a terminal as it is."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO

from webapp.support import terminal

if TYPE_CHECKING:
    from collections.abc import Iterable


def _takes_nothing(_words: str) -> bool:
    return False


error_log = SimpleNamespace(takes=_takes_nothing)
"""``takes(words)``: logs what goes to standard error; False: it does not, so the words are printed."""


def say(words: str = "", *, err: bool = False) -> None:
    """Print a line, or several, to standard output or standard error, at once.

    A line break in ``words`` is one on the terminal: text from outside goes through ``printable_line`` first. Where the
    log is JSON, what goes to standard error is, too. If standard error cannot be written (a full disk), the command
    goes on.
    """
    if not err:
        _print(words, sys.stdout)
    elif not error_log.takes(words):
        with suppress(OSError):
            _print(words, sys.stderr)


def _print(words: str, stream: TextIO) -> None:
    stream.write(_fit(f"{words}\n", stream))
    stream.flush()


def say_all(lines: Iterable[str]) -> None:
    """Print many lines to standard output."""
    sys.stdout.writelines(_fit(f"{line}\n", sys.stdout) for line in lines)


def say_json(value: Any) -> None:
    """Print a line of JSON to standard output, at once."""
    say(terminal.printable_json(json.dumps(value)))


def write_json(part: str) -> None:
    """Write a part of JSON to standard output."""
    sys.stdout.write(terminal.printable_json(part))


def printable_line(text: str) -> str:
    r"""Text from outside, on one line, without characters that move a cursor or hide others: shown as ``\x1b``."""
    return _encodable(terminal.printable(text), sys.stdout)


class Screen(io.RawIOBase):
    """Standard output as a terminal: whole lines of UTF-8, shown without characters that cannot be seen."""

    def __init__(self, *, is_json: bool) -> None:
        """JSON stays JSON."""
        self._is_json = is_json

    def write(self, content: Any) -> int:
        """Show some lines."""
        text = bytes(content).decode()
        sys.stdout.write(
            _encodable(terminal.printable_json(text), sys.stdout) if self._is_json else _fit(text, sys.stdout)
        )
        return len(content)

    def isatty(self) -> bool:
        """It is."""
        return True


def _fit(text: str, stream: TextIO) -> str:
    return _encodable(terminal.printable(text, keep="\n"), stream)


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
