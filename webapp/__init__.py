"""The callback receiver and status store for eSMS voice calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from webapp.support.settings import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; raises ConfigError for settings that are wrong."""
    from webapp import app  # noqa: PLC0415 - `esms-calls --help` imports this package, and needs no Flask

    return app.create_app(settings)
