"""Writes the man page esms-calls(1) from the help of the commands and the settings: `make man`."""

from __future__ import annotations

import inspect
import os
import re
import textwrap
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import click

from webapp.cli.commands import cli
from webapp.cli.output import say
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODE = re.compile(r"`([^`]+)`")
_SUMMARY = "receive eSMS voice callbacks, and store every call's status"
_LINE_WIDTH = 76
_FILES = {
    ".env": "settings of the working folder, one NAME=value a line; the environment has precedence",
    "instance/": "INSTANCE_DIR: the embedded database calls.db, the spool spool.db, the generated tokens",
}
_SEE_ALSO = "docs/operations.md says what to do when something is wrong, docs/settings.md lists the settings."


def man_page() -> str:
    """The page, in the macros of man(7)."""
    with click.Context(cli, info_name="esms-calls", **cli.context_settings) as context:
        lines = [*_head(), *_commands(context), *_environment_section(), *_files_section()]
    return "\n".join(lines) + "\n"


def _head() -> Iterator[str]:
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    description = _parts(cli.help or "")
    yield f'.TH ESMS-CALLS 1 {day} "esms-calls {version("esms-calls")}" "User commands"'
    yield ".SH NAME"
    yield f"esms-calls \\- {_in_ascii(_SUMMARY)}"
    yield from (".SH SYNOPSIS", ".B esms-calls", ".I command", "[\\fIoptions\\fR] [\\fIarguments\\fR]")
    yield from (".SH DESCRIPTION", *description)


def _commands(context: click.Context) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None  # noqa: S101 - it is in the list
        yield from _command(name, command, context)


def _command(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent) as context:
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        yield from (f".SS {_in_ascii(usage)}", *_parts(command.help or ""))
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record and isinstance(parameter, click.Option):
                yield from (".TP", f"\\fB{_in_ascii(record[0])}\\fR", *_filled(record[1]))
        for inner, found in sorted(getattr(command, "commands", {}).items()):
            yield from _command(f"{name} {inner}", found, parent)


def _environment_section() -> Iterator[str]:
    yield ".SH ENVIRONMENT"
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f" Default: `{field.default}`."
        yield from (".TP", f"\\fB{name.upper()}\\fR", *_filled(f"{field.description}{default}"))


def _files_section() -> Iterator[str]:
    yield ".SH FILES"
    for name, words in _FILES.items():
        yield from (".TP", f"\\fI{_in_ascii(name)}\\fR", *_filled(words))
    yield from (".SH SEE ALSO", *_filled(_SEE_ALSO))


def _parts(text: str) -> Iterator[str]:
    """The paragraphs of a help text; one that begins with click's control character keeps its lines."""
    for place, part in enumerate(inspect.cleandoc(text).split("\n\n")):
        if place:
            yield ".PP"
        if part.startswith("\b\n"):
            yield from (".nf", *(_no_macro(_in_ascii(line)) for line in part.splitlines()[1:]), ".fi")
        else:
            yield from _filled(part)


def _filled(text: str) -> Iterator[str]:
    """A paragraph in lines, what is in backticks in bold."""
    marked = _CODE.sub(r"\\fB\1\\fR", _in_ascii(" ".join(text.split())))
    yield from map(_no_macro, textwrap.wrap(marked, _LINE_WIDTH, break_long_words=False, break_on_hyphens=False))


def _in_ascii(text: str) -> str:
    """Text in ASCII, whose characters mean themselves."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in escaped)


def _no_macro(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    say(man_page().removesuffix("\n"))
