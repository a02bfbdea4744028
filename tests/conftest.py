"""Fixtures: a fresh, migrated database on SQLite and on a real PostgreSQL, and the application on it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from constants import API_TOKEN, CALLBACK_TOKEN
from servers import fresh_database, postgresql_server

from webapp import create_app
from webapp.storage.database import Database
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

pytest_plugins = ["reconciling"]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'calls.db'}"
    else:
        with fresh_database(request.getfixturevalue("postgresql")) as url:
            yield url


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url, patience=timedelta(seconds=10))
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Writer:
    return Writer(database)


@pytest.fixture
def reader(database: Database) -> Reader:
    return Reader(database)


@pytest.fixture
def settings(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a process on that database, also in the environment for commands run from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("INSTANCE_DIR", str(tmp_path / "instance"))
    monkeypatch.setenv("CALLBACK_TOKEN", CALLBACK_TOKEN)
    monkeypatch.setenv("API_TOKEN", API_TOKEN)
    return load_settings()


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["database"].close()
    app.extensions["ingest"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
