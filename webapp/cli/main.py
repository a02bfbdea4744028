"""The command line ``esms-calls``: its commands, and what becomes of their errors."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click
from flask.cli import AppGroup, ScriptInfo

from webapp import create_app
from webapp.callbacks.spool import SpoolError
from webapp.cli import (
    audit,
    callback_url,
    completeness,
    export,
    migrate,
    reconcile,
    register,
    replay,
    serve,
    spool,
    status,
)
from webapp.cli.context import NO_DATABASE, PROBLEM, USAGE
from webapp.esms.sandbox import sandbox_command
from webapp.storage.database import NotMigrated, Unavailable
from webapp.support import log
from webapp.support.settings import ConfigError, load_settings


class _Cli(AppGroup):
    """Turns what goes wrong into a line that says what to do, and the exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except ConfigError as error:
            _fail(f"{error}\nSee the settings in README.md, or in the environment and .env.", USAGE)
        except Unavailable as error:
            _fail(f"The database cannot be used: {error}\nCheck DATABASE_URL and that the database runs.", NO_DATABASE)
        except NotMigrated as error:
            _fail(str(error), PROBLEM)
        except SpoolError as error:
            _fail(f"The spool cannot be used: {error}\nCheck INSTANCE_DIR, its disk and SPOOL_LIMIT.", PROBLEM)
        except OSError as error:
            _fail(f"{error.strerror or error.__class__.__name__}: {error.filename or 'input or output'}", PROBLEM)
        except Exception as error:  # noqa: BLE001 - no traceback reaches a user
            _fail(f"Unexpected {error.__class__.__name__}: {error}\nThis is a bug: please report it.", PROBLEM)


def _fail(message: str, code: int) -> NoReturn:
    try:
        secrets = load_settings().secrets()
    except Exception:  # noqa: BLE001 - most likely this is what has failed before
        secrets = ()
    click.echo(f"Error: {log.redact(message, secrets)}", err=True)
    sys.exit(code)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="esms-calls", prog_name="esms-calls")
def cli() -> None:
    """Receive eSMS voice callbacks, keep every call's status in SQL, and fetch the results that never came.

    \b
    First steps:
      esms-calls serve          serve, and print the CallbackUrl to give to eSMS
      esms-calls register FILE  say which calls were placed, so that a missing result is noticed
      esms-calls reconcile      ask eSMS about the calls whose callback never came
      esms-calls status         see how things stand

    Settings come from environment variables and a .env file in the working folder; README.md lists them.
    Exit codes: 0 done, 1 something needs attention, 2 usage or settings, 3 eSMS refuses the account,
    4 the database cannot be reached.
    """  # noqa: D301 - click wants the control character


def main() -> None:
    """Run the command line."""
    cli.main(prog_name="esms-calls", obj=ScriptInfo(create_app=create_app))


for _command in (
    serve.serve,
    migrate.migrate,
    callback_url.callback_url,
    register.register,
    export.export,
    replay.replay,
    reconcile.reconcile,
    audit.audit,
    status.status,
    completeness.completeness,
    spool.spool,
    sandbox_command,
):
    cli.add_command(_command)
