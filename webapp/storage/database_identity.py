"""Tells one database from every other, so that two processes can find out whether they use the same one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from webapp.storage.errors import Unavailable
from webapp.support import files

if TYPE_CHECKING:
    from webapp.storage.database import Database

_SERVER_AND_DATABASE = text(
    "SELECT extract(epoch FROM pg_postmaster_start_time()), oid FROM pg_database WHERE datname = current_database()"
)
"""Any role may ask this, also where a provider forbids pg_control_system()."""


def identity(database: Database) -> str:
    """What only this database has now, whatever it is called: a copy has another one. Raises Unavailable.

    Of a SQLite file it is device and inode; of PostgreSQL the microsecond in which its server was started, and the
    number of the database in it.
    """
    if database.is_sqlite:
        try:
            found = files.inode(Path(str(database.url.database)))
        except OSError as error:
            raise Unavailable(f"{database.name}: {error.strerror}") from error
        if found is None:
            raise Unavailable(f"{database.name} does not exist")
        return "sqlite {} {}".format(*found)
    with database.snapshot() as connection:
        return "postgresql {} {}".format(*connection.execute(_SERVER_AND_DATABASE).one())
