"""The overview: all calls of some days in figures and charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import render_template

from webapp.storage import figures

if TYPE_CHECKING:
    from flask import Blueprint
    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.support.settings import Settings


def add_to(pages: Blueprint, database: Database, _settings: Settings) -> None:
    """Add the route."""

    @pages.get("/", endpoint="overview")
    def overview() -> ResponseReturnValue:
        with database.snapshot() as connection:
            as_of = figures.as_of(connection)
        return render_template("overview.html", as_of=as_of)
