"""What commands work with: the settings, the database with its writer and reader, the spool, eSMS's client."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from webapp.callbacks.spool import Spool
from webapp.cli.output import printable_line, say
from webapp.storage.database import Database
from webapp.storage.phone_key import phones_of, require_the_same_key
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import ENV_FILE, ConfigError, Settings, load_settings, mistyped_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.esms.client import Client
    from webapp.esms.network import Network

_log = logging.getLogger(__name__)

CLI_PATIENCE = timedelta(seconds=30)
"""How long a command waits for the database."""


class CliContext:
    """The settings, and the database with its writer and reader."""

    def __init__(self, patience: timedelta, at_most: timedelta | None, *, replica: bool = False) -> None:
        """Read the settings; connect to nothing yet. ``replica``: work with that of READ_DATABASE_URL, if it is set."""
        self.settings = load_settings()
        hint_at_mistyped_names()
        self.is_replica = replica and self.settings.read_database_url is not None
        url = self.settings.reading_database if replica else self.settings.database
        setting = "READ_DATABASE_URL" if self.is_replica else "DATABASE_URL"
        phones = phones_of(self.settings)
        self.database = Database(url, patience=patience, transaction_limit=at_most, setting=setting, phones=phones)
        self.writer = Writer(self.database)
        self.reader = Reader(self.database)


@contextmanager
def open_reading_context() -> Iterator[CliContext]:
    """A context that is only read, on the replica of READ_DATABASE_URL if that is set."""
    context = CliContext(CLI_PATIENCE, None, replica=True)
    try:
        if context.is_replica:
            context.database.check_replica()
        else:
            context.database.check(writes=False)
        yield context
    finally:
        context.database.close()


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
            if writes:
                require_the_same_key(context.database, datetime.now(UTC))
        yield context
    finally:
        context.database.close()


def hint_at_mistyped_names() -> None:
    """Name on standard error what is probably mistyped in ``.env``."""
    for name, meant in mistyped_names().items():
        say(f"{ENV_FILE}: {printable_line(name)} is not a setting, and is ignored. Do you mean {meant}?", err=True)


def client_of(settings: Settings) -> Client:
    """A client that asks eSMS; raises ConfigError where the keys are not set, or the way to eSMS cannot be used.

    Warns of addresses to which the keys go in clear.
    """
    missing = [name.upper() for name in ("esms_api_key", "esms_secret_key") if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"Not set: {', '.join(missing)}. To ask eSMS, the keys of your eSMS account are needed.")
    from webapp.esms.client import Client  # noqa: PLC0415 - most commands do not need it
    from webapp.esms.network import is_in_clear  # noqa: PLC0415

    urls = {"ESMS_API_URL": settings.esms_api_url, "ESMS_MESSAGE_API_URL": settings.message_api_url}
    for name, url in urls.items():
        if url and is_in_clear(url):
            _log.warning(
                "%s begins with http://: the keys of your eSMS account go in clear to another machine. Use https://.",
                name,
            )
    return Client(
        settings.esms_api_url,
        settings.esms_api_key or "",
        settings.esms_secret_key or "",
        settings.esms_timeout,
        message_url=settings.message_api_url,
        network=_network_of(settings),
        callback_tokens=settings.known_callback_tokens,
    )


def _network_of(settings: Settings) -> Network:
    """The way to eSMS; raises ConfigError."""
    from webapp.esms.network import Network, ca_bundle_problem  # noqa: PLC0415

    name, bundle = settings.ca_bundle or ("", None)
    if bundle and (problem := ca_bundle_problem(bundle)):
        raise ConfigError(f"{name} cannot be used ({bundle}: {problem}): name a file of CA certificates in PEM.")
    network = Network(settings.https_proxy, settings.no_proxy, bundle)
    for url in filter(None, (settings.esms_api_url, settings.message_api_url)):
        if any(proxy.startswith("socks") for proxy in network.proxies_for(url).values()):
            raise ConfigError(
                "HTTPS_PROXY is a SOCKS proxy, which cannot be used: set it to an http:// proxy, or name eSMS's host "
                "in NO_PROXY."
            )
    return network


def spool_of(settings: Settings) -> Spool:
    """The spool in the instance folder."""
    return Spool(settings.instance_dir.resolve(), settings.spool_limit)
