"""Lists of calls that a person gives as a file: a CSV with a header, or one ReferenceId a line."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import click

from webapp.cli.output import hint
from webapp.esms.registrations import BadLine, Lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from webapp.calls.rule import Registration

_PORTION = 1000


def say_how_to_end(file: BinaryIO) -> None:
    """Where the list is typed on a terminal, say how it ends."""
    if file.isatty():
        click.echo("Reading from the terminal; Ctrl-D on a line of its own ends it.", err=True)


class CallList:
    """The calls of a list, read portion by portion; bad lines are named on standard error, counted and skipped."""

    def __init__(self, file: BinaryIO, zone: ZoneInfo) -> None:
        """Read nothing yet; times without a zone are in ``zone``."""
        self._lines = Lines(file, zone)
        self.bad = 0

    def portions(self) -> Iterator[list[Registration]]:
        """The calls, up to 1,000 at a time."""
        registrations = self._registrations()
        while portion := list(islice(registrations, _PORTION)):
            yield portion

    def _registrations(self) -> Iterator[Registration]:
        for line in self._lines:
            if isinstance(line, BadLine):
                self.bad += 1
                sys.stderr.write(f"line {line.number}: {line.problem}\n")
            else:
                yield line

    @property
    def ignored_columns(self) -> list[str]:
        """Columns of the header that mean nothing here."""
        return self._lines.header_ignored

    def hint_at_commas(self) -> None:
        """Say that what was read as ids looks like a CSV without its header."""
        if self._lines.commas_at:
            hint(
                f"line {self._lines.commas_at} holds a comma and was taken as a ReferenceId: "
                "if this is a CSV, its first line must name the columns."
            )
