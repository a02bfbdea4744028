"""Puts the WSGI application together: the one place that wires the packages to each other."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from webapp.callbacks import proof, views
from webapp.callbacks.ingest import Ingest
from webapp.callbacks.spool import Spool
from webapp.callbacks.token_counter import TokenCounter
from webapp.storage.database import Database
from webapp.storage.phone_key import phones_of
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support import accepted_tokens, log
from webapp.support.settings import Settings, load_settings
from webapp.support.token_redaction import TokenRedactor
from webapp.web import access, answer_headers, api, errors, health, ops
from webapp.web.gauges import Gauges
from webapp.web.pages import site
from webapp.web.proxies import behind_proxies
from webapp.web.refresher import Refresher
from webapp.web.routing import RoutedByPath

if TYPE_CHECKING:
    from flask import Flask

    from webapp.calls.phone import PhoneStorage

API_PATIENCE = timedelta(seconds=3)
"""How long a request of the API waits for the database."""
API_TRANSACTION_LIMIT = timedelta(seconds=30)
"""How long the database may take over a request of the API, as a whole."""


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; raises ConfigError for settings that are wrong."""
    settings = settings or load_settings()
    callback_tokens, api_tokens = accepted_tokens.callback_tokens(settings), accepted_tokens.api_tokens(settings)
    log.configure(settings)
    redact = TokenRedactor(callback_tokens())
    callback_tokens.on_change(redact.add)
    for tokens in (callback_tokens, api_tokens):
        tokens.on_change(lambda _: log.hide(settings.secrets()))
    phones = phones_of(settings)
    database = Database(
        settings.database, patience=API_PATIENCE, transaction_limit=API_TRANSACTION_LIMIT, phones=phones
    )
    reading = _for_reading(settings, phones) or database
    spool = Spool(settings.instance_dir.resolve(), settings.spool_limit) if settings.spool else None
    ingest = _ingest(settings, spool, redact, phones)
    counter = TokenCounter(database)
    receiver = views.Receiver(ingest, callback_tokens, counter, redact, settings.callback_allowed_ips)
    gauges = Gauges(database, spool, settings)
    refresher = Refresher(_for_figures(settings), settings.instance_dir.resolve() / "figures-lock")

    app = RoutedByPath(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False
    app.config["TRUSTED_PROXIES"] = settings.trusted_proxies
    app.extensions |= {"database": database, "ingest": ingest, "receiver": receiver, "token_counter": counter}
    app.extensions |= {"refresher": refresher, "reading": reading, "gauges": gauges}
    app.wsgi_app = behind_proxies(app.wsgi_app, settings.trusted_proxies)  # type: ignore[assignment, method-assign]
    access.init_app(app)
    answer_headers.init_app(app)
    errors.init_app(app)
    if settings.ops_bind:
        app.extensions["ops_address"] = address = ops.OpsAddress(settings.ops_bind)
        ops.init_app(app, address)
    callbacks = views.blueprint(receiver)
    proof.init_routes(callbacks, database)
    app.register_blueprint(callbacks)
    app.register_blueprint(api.blueprint(Writer(database), Reader(reading), api_tokens, settings.time_zone))
    app.register_blueprint(health.blueprint(database, gauges, cached=settings.ops_bind is not None))
    if settings.page:
        site.init_app(app, reading, settings, lambda: (*api_tokens(), *(settings.page_token or ())))
    access.begin_counts(app)
    return app


def _ingest(settings: Settings, spool: Spool | None, redact: TokenRedactor, phones: PhoneStorage) -> Ingest:
    """The ingest, with connections of its own: nothing else delays callbacks, and it waits less for the database."""
    database = Database(
        settings.database,
        patience=settings.answer_within * 0.3,
        transaction_limit=settings.answer_within,
        connections=3,
        phones=phones,
    )
    return Ingest(database, spool, settings.answer_within, redact)


def _for_reading(settings: Settings, phones: PhoneStorage) -> Database | None:
    """The replica of READ_DATABASE_URL; None where it is not set: page, API and exports read the database itself."""
    if settings.read_database_url is None:
        return None
    return Database(
        settings.read_database_url,
        patience=API_PATIENCE,
        transaction_limit=API_TRANSACTION_LIMIT,
        setting="READ_DATABASE_URL",
        phones=phones,
    )


def _for_figures(settings: Settings) -> Database:
    """Connections of the refresher: it reads for as long as a day takes, and nothing else waits for one of its own."""
    return Database(settings.database, patience=API_PATIENCE, transaction_limit=API_TRANSACTION_LIMIT, connections=1)
