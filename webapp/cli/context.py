"""What commands work with: the settings, the database with its writer and reader, the spool, eSMS's client."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from webapp.callbacks.spool import Spool
from webapp.storage.database import Database
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support import log
from webapp.support.settings import ConfigError, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.esms.client import Client

CLI_PATIENCE = timedelta(seconds=30)
"""How long a command waits for the database."""


class CliContext:
    """The settings, and the database with its writer and reader."""

    def __init__(self, patience: timedelta, at_most: timedelta | None) -> None:
        """Read the settings; connect to nothing yet."""
        self.settings = load_settings()
        log.configure(self.settings.secrets(), level=30)
        self.database = Database(self.settings.database, patience=patience, transaction_limit=at_most)
        self.writer = Writer(self.database)
        self.reader = Reader(self.database)


@contextmanager
def open_context(
    *, migrated: bool = True, writes: bool = True, patience: timedelta = CLI_PATIENCE, at_most: timedelta | None = None
) -> Iterator[CliContext]:
    """A context that is closed in the end.

    ``migrated``: first check that the database is at the right migration and, with ``writes``, that it takes writes.
    ``patience``: how long to wait for the database. ``at_most``: how long a transaction may last.
    """
    context = CliContext(patience, at_most)
    try:
        if migrated:
            context.database.check(writes=writes)
        yield context
    finally:
        context.database.close()


def client_of(settings: Settings) -> Client:
    """A client that asks eSMS; raises ConfigError where the keys are not set."""
    missing = [name.upper() for name in ("esms_api_key", "esms_secret_key") if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"Not set: {', '.join(missing)}. To ask eSMS, the keys of your eSMS account are needed.")
    from webapp.esms.client import Client  # noqa: PLC0415 - most commands do not need it

    return Client(
        settings.esms_api_url, settings.esms_api_key or "", settings.esms_secret_key or "", settings.esms_timeout
    )


def spool_of(settings: Settings) -> Spool:
    """The spool in the instance folder."""
    return Spool(settings.instance_dir.resolve(), settings.spool_limit)
