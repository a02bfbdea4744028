"""The command line `esms-calls`: the table of its commands, each in a module that is imported only when it runs."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from webapp.cli.exit_codes import INTERRUPTED, PROBLEM
from webapp.cli.output import say

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "audit": "Ask eSMS (GetSendStatus) about settled calls, and report where the store disagrees.",
    "backup": "Write calls, spool and tokens into FILE, while the server runs; for the embedded SQLite.",
    "callback-url": "Print the CallbackUrl to give to eSMS, with the documented empty parameters.",
    "completeness": "Account for every call: settled, given up or missing, in sums that match.",
    "completion": "Print what makes SHELL complete commands and options with the tab key.",
    "dismiss": "Note that a person has seen to calls, or to rejected callbacks: status does not name them again.",
    "doctor": "Look at everything that a server needs, and say what to do about what is wrong.",
    "export": "Write calls as CSV, JSON Lines, Parquet or an Excel workbook, oldest placed first.",
    "grant-readonly": "Print the SQL that makes ROLE read the tables and views of PostgreSQL, and do nothing else.",
    "hide-phones": "Hide the phone numbers that are stored already, as PHONE_STORAGE says now.",
    "migrate": "Bring the database to the newest migration.",
    "purge": "Remove old calls with their history, and old rejected callbacks.",
    "reconcile": "Ask eSMS (GetSendStatus) about every call whose result never came, and about calls in conflict.",
    "register": "Register the calls that were placed, so that a missing callback is noticed.",
    "replay": "Fold the whole history again by the rule, and correct the calls that differ from it.",
    "report": "Show how calls went: answered share, talk time, cost, callbacks, by whole days.",
    "restore": "Put a backup's calls, spool and tokens where the settings say; the server must not run.",
    "rollups": "Make the figures of all days anew, from the calls.",
    "rotate-token": "Change the callback token or the API token without a gap.",
    "sandbox": "Stand in for eSMS on this machine: take calls, send their callbacks, answer look-ups.",
    "serve": "Serve callbacks and the API with gunicorn, until SIGTERM or Ctrl-C.",
    "show": "Show one call and its story: what each report said and did.",
    "spool": "Show, export or store the callbacks that wait because the database could not take them.",
    "status": "Show what needs a person, what is stored, and what is missing.",
    "time-zone": "Show or change the time zone of the days in views and figures.",
    "unregister": "Take back registrations that were made by mistake.",
}
"""Name and short help. A command is the function of the same name in ``webapp.cli.<name>``, a ``-`` being a ``_``."""


class Commands(click.Group):
    """Imports a command when it runs; turns errors into a line that says what to do, and an exit code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None if there is no such one."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"webapp.cli.{name}"), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table; click's own way would import every command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What the tab key offers; click's own way would import every command."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - not for --help

        found = [CompletionItem(name, help=words) for name, words in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; it may use Flask's ``with_appcontext``."""
        if ctx.resilient_parsing:  # The tab key does not wait for imports.
            return super().resolve_command(ctx, args)
        try:
            found = super().resolve_command(ctx, args)
        except click.UsageError:
            if "LOG_FORMAT" in os.environ:
                _configure_log()
            raise
        _configure_log()
        from flask.cli import ScriptInfo  # noqa: PLC0415 - not for --help

        from webapp import create_app  # noqa: PLC0415

        ctx.obj = ScriptInfo(create_app=create_app)
        return found

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run, and exit with the command's code; no traceback reaches a user. What is made is for that user alone."""
        os.umask(0o077)
        _open_what_is_closed()
        try:
            code = self._run(*args, **kwargs)
            sys.stdout.flush()  # here, so that a full disk is an error as any other
        except BrokenPipeError:
            code = PROBLEM  # who reads the output, such as `head`, wants no more of it
        except click.ClickException as error:
            words = io.StringIO()
            error.show(words)
            say(words.getvalue().removesuffix("\n"), err=True)
            code = error.exit_code
        except click.Abort:
            say("Interrupted.", err=True)
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - see above
            from webapp.cli.errors import print_error  # noqa: PLC0415 - it imports the database and more

            code = print_error(error)
        _drop_what_cannot_be_written()
        sys.exit(code)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """The exit code of the command, however it ends well."""
        try:
            return super().main(*args, **kwargs | {"standalone_mode": False})
        except SystemExit as ended:
            return ended.code


def _configure_log() -> None:
    from webapp.cli.log import configure_log  # noqa: PLC0415 - not for --help, nor for a mistyped command

    configure_log()


def _open_what_is_closed() -> None:
    """Drop what is printed where standard output or error is closed: no file that is opened may take its place."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: its own.
            os.set_inheritable(handle, True)  # noqa: FBT003 - its only argument
            if name != "stdin":
                setattr(sys, name, os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace"))


def _drop_what_cannot_be_written() -> None:
    """What a full disk did not take; else the interpreter tries once more in the end, and exits with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            handle = os.open(os.devnull, os.O_WRONLY)
            os.dup2(handle, stream.fileno())
            os.close(handle)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="esms-calls", prog_name="esms-calls")
def cli() -> None:
    """Receive eSMS voice callbacks, store every call's status in SQL, and fetch the results that never came.

    \b
    First steps:
      esms-calls serve          serve, and print the CallbackUrl to give to eSMS
      esms-calls register FILE  say which calls were placed, so that a missing result is noticed
      esms-calls reconcile      ask eSMS about the calls whose callback never came
      esms-calls status         show what is stored, and what needs a person

    Settings come from environment variables and a .env file in the working folder; docs/settings.md lists them.
    Exit codes: 0 done, 1 something needs attention, 2 usage or settings, 3 eSMS refuses the account,
    4 the database cannot be reached, 130 interrupted.
    """  # noqa: D301 - click wants the control character
