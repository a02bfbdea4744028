"""Lists of calls that a person gives as a file: a CSV with a header, or one ReferenceId a line."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import click

from webapp.cli.exit_codes import USAGE
from webapp.cli.output import printable_line, say
from webapp.esms.registrations import BadLine, Lines, UnreadableList

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from webapp.calls.rule import Registration

_PORTION = 1000
_NAMED = 20


def say_how_to_end(file: BinaryIO) -> None:
    """Where the list is typed on a terminal, say how it ends."""
    if file.isatty():
        say("Reading from the terminal; Ctrl-D on a line of its own ends it.", err=True)


class NoList(click.ClickException):
    """The file is no list of calls."""

    exit_code = USAGE


class CallFile:
    """The calls of a list, read portion by portion; the first 20 bad lines are named on standard error, all skipped."""

    def __init__(self, file: BinaryIO, zone: ZoneInfo) -> None:
        """Read the first line; times without a zone are in ``zone``. Raises NoList."""
        try:
            self._lines = Lines(file, zone, datetime.now(UTC))
        except UnreadableList as error:
            raise NoList(str(error)) from None
        self.bad = 0

    def portions(self) -> Iterator[list[Registration]]:
        """The calls, up to 1,000 at a time; in the end standard error says what was left out. Raises NoList."""
        registrations = self._registrations()
        empty = True
        while portion := list(islice(registrations, _PORTION)):
            empty = False
            yield portion
        if self.bad > _NAMED:
            say(f"and {self.bad - _NAMED} more bad lines", err=True)
        if self._lines.ignored_columns:
            ignored = (f"{printable_line(name)}{meant}" for name, meant in self._lines.ignored_columns.items())
            say(f"ignored columns: {', '.join(ignored)}", err=True)
        if empty and not self.bad:
            say("The list is empty: it names no call.", err=True)

    def _registrations(self) -> Iterator[Registration]:
        try:
            for line in self._lines:
                if isinstance(line, BadLine):
                    self.bad += 1
                    if self.bad <= _NAMED:
                        say(f"line {line.number}: {printable_line(line.problem)}", err=True)
                else:
                    yield line
        except UnreadableList as error:
            raise NoList(str(error)) from None
