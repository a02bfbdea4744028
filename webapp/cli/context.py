"""What the commands share: the database through its doors, options that people give, tables, exit codes."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from webapp.callbacks.spool import Spool
from webapp.esms.client import Client
from webapp.storage.database import Database
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support import log
from webapp.support.settings import ConfigError, Settings, load_settings
from webapp.support.times import parse_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from webapp.esms.registrations import Lines

DONE, PROBLEM, USAGE, REFUSED, NO_DATABASE = range(5)
"""The exit codes; 1 is also whatever was not expected."""

PATIENCE = timedelta(seconds=30)
"""How long a command waits for the database."""

_WIDE = 400
"""A table of many columns is as wide as it must be: figures that are cut off would be wrong ones."""


# click's ParamType is generic only of late.
class Duration(click.ParamType):  # type: ignore[type-arg]
    """An option such as 10m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it, or say what is wrong."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Time(click.ParamType):  # type: ignore[type-arg]
    """An option such as 2026-11-23 or 2026-11-23T10:00; without a zone it is in TIME_ZONE."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it, or say what is wrong."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value, load_settings().time_zone)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CliContext:
    """What commands work with: the settings, and the database through its three doors."""

    def __init__(self, patience: timedelta, at_most: timedelta | None) -> None:
        """Read the settings; connect to nothing yet."""
        self.settings = load_settings()
        log.configure(self.settings.secrets(), level=30)
        self.database = Database(self.settings.database, patience=patience, at_most=at_most)
        self.writer = Writer(self.database)
        self.reader = Reader(self.database)


@contextmanager
def open_context(
    *, migrated: bool = True, writes: bool = True, patience: timedelta = PATIENCE, at_most: timedelta | None = None
) -> Iterator[CliContext]:
    """The database, found to be migrated if it must be, and to take writes if these are wanted.

    ``at_most`` is how long a transaction may last.
    """
    context = CliContext(patience, at_most)
    try:
        if migrated:
            context.database.check(writes=writes)
        yield context
    finally:
        context.database.close()


def client_of(settings: Settings) -> Client:
    """What asks eSMS; raises ConfigError where the keys are not set."""
    missing = [name.upper() for name in ("esms_api_key", "esms_secret_key") if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"Not set: {', '.join(missing)}. To ask eSMS, the keys of your eSMS account are needed.")
    return Client(
        settings.esms_api_url, settings.esms_api_key or "", settings.esms_secret_key or "", settings.esms_timeout
    )


def hint(words: str) -> None:
    """Words for a person; where they cannot be written (a full disk), that keeps nobody from serving."""
    with suppress(OSError):
        click.echo(words, err=True)


def hint_at_commas(lines: Lines) -> None:
    """Say that what was read as a list of ids looks like a CSV without its header."""
    if lines.commas_at:
        hint(
            f"line {lines.commas_at} holds a comma and was taken as a ReferenceId: "
            "if this is a CSV, its first line must name the columns."
        )


@contextmanager
def stop_at_signals() -> Iterator[threading.Event]:
    """What Ctrl-C and SIGTERM set, instead of ending the process."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spool_of(settings: Settings) -> Spool:
    """The spool of this instance folder."""
    return Spool(settings.instance_dir.resolve(), settings.spool_limit)


def print_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one pair a line."""
    table = Table(title=title, box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in rows:
        table.add_row(name, str(value))
    Console().print(table)


def print_columns(title: str, headers: Sequence[str], rows: Iterable[Sequence[Any]], total: Sequence[Any]) -> None:
    """Print a table of a name and figures, and the sum of all in the last line."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for header in headers:
        table.add_column(header, justify="right" if table.columns else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    table.add_section()
    table.add_row(*(Text(str(value)) for value in total))
    Console(width=_WIDE).print(table)


def printable(words: str) -> str:
    """Words as they came from outside, fit for a terminal."""
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in words)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
