"""Brings a database to the newest migration, and says at which one it is."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@cache
def newest_migration() -> str:
    """The revision that this program needs."""
    head = ScriptDirectory.from_config(_alembic_config()).get_current_head()
    return str(head)


def current_migration(connection: Connection) -> str | None:
    """The revision of this database; None if it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def test_write(connection: Connection) -> None:
    """Write without changing anything: fails on a database that is read-only or locked."""
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


def upgrade(connection: Connection) -> str | None:
    """Bring the database to the newest migration; returns the revision that it had before."""
    before = current_migration(connection)
    if before != newest_migration():
        config = _alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before


def _migrations() -> Path:
    """The folder of the migrations: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "migrations", package.parent / "migrations") if folder.is_dir())


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", re.sub("%", "%%", str(_migrations())))
    return config
