"""What a command says when something is wrong, and its exit code.

Imported only then: it imports all that can fail.
"""

from __future__ import annotations

import os
import sys

from webapp.callbacks.spool import SpoolError
from webapp.cli.database_remedies import remedy
from webapp.cli.exit_codes import NO_DATABASE, PROBLEM, USAGE
from webapp.cli.output import say
from webapp.storage.errors import NotMigrated, Unavailable
from webapp.support.redaction import redact
from webapp.support.settings import ConfigError, env_file_in_words, load_settings


def print_error(error: Exception) -> int:
    """Print the error and what to do about it to standard error, without secrets; the exit code."""
    message, code = _explain(error)
    try:
        secrets = load_settings().secrets()
    except Exception:  # noqa: BLE001 - most likely the settings are what is wrong
        secrets = ()
    say(f"Error: {redact(message, secrets)}", err=True)
    return code


def _explain(error: Exception) -> tuple[str, int]:
    code = PROBLEM
    match error:
        case ConfigError():
            words = "docs/settings.md lists the settings; they come from the environment and from"
            words, code = f"{error}\n{words} {env_file_in_words()}.", USAGE
        case Unavailable():
            what_to_do = remedy(error)
            words = f"The database cannot be used: {error}\n{what_to_do[0].upper()}{what_to_do[1:]}."
            code = NO_DATABASE
        case NotMigrated():
            words = f"{error}\nSettings come from the environment and from {env_file_in_words()}."
        case SpoolError():
            words = f"The spool cannot be used: {error}\nCheck INSTANCE_DIR, its disk and SPOOL_LIMIT."
        case OSError():
            words = f"{error.strerror or type(error).__name__}: {error.filename or 'input or output'}"
        case UnicodeEncodeError() if broken := next(filter(_is_broken, sys.argv), None):
            words, code = f"The argument {os.fsencode(broken)!r} is not text in UTF-8.", USAGE
        case RuntimeError() if sys.stdin is None:
            words, code = "Standard input is closed, and no file was named to be read instead.", USAGE
        case _:
            words = f"Unexpected {type(error).__name__}: {error}\nThis is a bug: please report it."
    return words, code


def _is_broken(argument: str) -> bool:
    """Whether it came with bytes that are no UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in argument)
