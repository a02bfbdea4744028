"""What a command says when something is wrong, and its exit code.

Imported only then: it imports all that can fail.
"""

from __future__ import annotations

import click

from webapp.callbacks.spool import SpoolError
from webapp.cli.exit_codes import NO_DATABASE, PROBLEM, USAGE
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support.redaction import redact
from webapp.support.settings import ConfigError, load_settings


def report(error: Exception) -> int:
    """Print the error and what to do about it to standard error, without secrets; the exit code."""
    message, code = _explain(error)
    try:
        secrets = load_settings().secrets()
    except Exception:  # noqa: BLE001 - most likely the settings are what is wrong
        secrets = ()
    click.echo(f"Error: {redact(message, secrets)}", err=True)
    return code


def _explain(error: Exception) -> tuple[str, int]:
    match error:
        case ConfigError():
            return f"{error}\ndocs/settings.md lists the settings; they come from the environment and .env.", USAGE
        case Unavailable():
            words = f"The database cannot be used: {error}\nCheck DATABASE_URL and that the database runs."
            return words, NO_DATABASE
        case NotMigrated():
            return str(error), PROBLEM
        case SpoolError():
            return f"The spool cannot be used: {error}\nCheck INSTANCE_DIR, its disk and SPOOL_LIMIT.", PROBLEM
        case OSError():
            return f"{error.strerror or type(error).__name__}: {error.filename or 'input or output'}", PROBLEM
        case _:
            return f"Unexpected {type(error).__name__}: {error}\nThis is a bug: please report it.", PROBLEM
