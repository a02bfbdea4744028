"""Words for people: hints on standard error, and text from outside made fit for a terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

import click


def hint(words: str) -> None:
    """Print to standard error; if that fails (a full disk), the command goes on."""
    with suppress(OSError):
        click.echo(words, err=True)


def printable(text: str) -> str:
    r"""Text from outside, without characters that move a cursor or hide others: they are shown as ``\x1b``."""
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
