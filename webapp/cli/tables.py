"""Prints tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from webapp.cli.output import printable_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDE = 400
"""Characters: a table of many columns is never cut to the terminal's width, for its figures would be wrong then."""


def print_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one pair a line."""
    table = Table(title=title, box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in rows:
        table.add_row(_cell(name), _cell(value))
    Console().print(table)


def print_columns(title: str, headers: Sequence[str], rows: Iterable[Sequence[Any]], total: Sequence[Any]) -> None:
    """Print rows of a name and its figures; the last line is the sum of all."""
    table = Table(title=title, box=SIMPLE, title_justify="left", padding=0, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if table.columns else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    table.add_section()
    table.add_row(*(_cell(value) for value in total))
    Console(width=_WIDE).print(table)


def _cell(value: Any) -> Text:
    """The value as it is: rich would read brackets as markup."""
    return Text(printable_line(str(value)))
