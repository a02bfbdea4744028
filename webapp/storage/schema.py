"""Brings a database to the newest migration, and says at which one it is.

Alembic is imported only to migrate: every command needs the revision, and importing Alembic takes 0.2 seconds.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, select, text

from webapp.storage.errors import NotMigrated
from webapp.storage.models import Base, schema_compatibility

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection

    from webapp.storage.errors import Why

_REMEDY = "Make a database for esms-calls alone, and set DATABASE_URL to it."
_OUR_REVISION = re.compile(r"[0-9]{4}")


def newest_migration() -> str:
    """The revision that this program needs."""
    return _known_revisions()[-1]


def current_migration(connection: Connection) -> str | None:
    """The revision of this database; None if it has no tables yet.

    That of a newer program is one that this program can use, see ``is_usable``. Raises NotMigrated for a database that
    this program can neither use nor migrate, with words for each kind of it.
    """
    _require_utf8(connection)
    revisions = _revisions(connection)
    if len(revisions) > 1:
        raise NotMigrated(_several(sorted(revisions)), "the database is at several migrations at once")
    if not revisions:
        if tables := _tables_of_our_names(connection):
            raise NotMigrated(_without_revision(tables), "the database is not one of esms-calls")
        return None
    if revisions[0] not in _known_revisions() and not _is_compatible(connection, revisions[0]):
        tables = _tables_of_our_names(connection)
        why: Why = (
            "the database is at a newer migration than this server knows: upgrade esms-calls"
            if _is_newer(revisions[0], tables)
            else "the database is not one of esms-calls"
        )
        raise NotMigrated(_words_for_unknown(revisions[0], tables), why)
    return revisions[0]


def is_usable(revision: str | None) -> bool:
    """Whether this program can use a database at what ``current_migration`` gave: its own revision, or a newer one.

    Servers of two versions then share one database while the older ones are replaced.
    """
    return revision == newest_migration() or is_newer(revision)


def is_newer(revision: str | None) -> bool:
    """Whether a newer program has migrated a database at what ``current_migration`` gave."""
    return revision is not None and revision not in _known_revisions()


def _is_compatible(connection: Connection, revision: str) -> bool:
    """Whether all migrations newer than this program only add to what it uses; the database says so itself."""
    if not _OUR_REVISION.fullmatch(revision) or not inspect(connection).has_table(schema_compatibility.name):
        return False
    row = connection.execute(select(schema_compatibility.c.migration, schema_compatibility.c.usable_from)).one_or_none()
    return row is not None and row.migration == revision and row.usable_from <= newest_migration()


def _revisions(connection: Connection) -> list[str]:
    if not inspect(connection).has_table("alembic_version"):
        return []
    return list(connection.scalars(text("SELECT version_num FROM alembic_version")))


def _require_utf8(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        return
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise NotMigrated(
            f"The database has the encoding {encoding}, and esms-calls needs UTF8, which holds text of every language. "
            "An encoding cannot be changed: make a new database (createdb --encoding=UTF8 --template=template0), set "
            "DATABASE_URL to it, and run `esms-calls migrate`.",
            "the database is not in UTF8",
        )


def _tables_of_our_names(connection: Connection) -> list[str]:
    return [name for name in sorted(Base.metadata.tables) if inspect(connection).has_table(name)]


@cache
def _known_revisions() -> list[str]:
    """Oldest first: each migration's file begins with its revision, a number."""
    return sorted(path.name.partition("_")[0] for path in (_migrations() / "versions").glob("[0-9]*_*.py"))


def _without_revision(tables: list[str]) -> str:
    return (
        f"The database has tables with this program's names ({', '.join(tables)}), and its alembic_version does not "
        "say at which migration they are. If they are a copy of esms-calls' tables, copy alembic_version too. "
        f"Otherwise another application made them. {_REMEDY}"
    )


def _words_for_unknown(revision: str, tables: list[str]) -> str:
    if _is_newer(revision, tables):
        return (
            f"The database is at migration {revision}, which this program does not know (it needs "
            f"{newest_migration()}): a newer version of esms-calls has migrated it, and older ones cannot use "
            "it. Upgrade this one to that version."
        )
    return (
        f"The database belongs to another application: its alembic_version is at {revision!r}, which is no migration "
        f"of esms-calls. {_REMEDY}"
    )


def _is_newer(revision: str, tables: list[str]) -> bool:
    return "status_reports" in tables and _OUR_REVISION.fullmatch(revision) is not None


def _several(revisions: list[str]) -> str:
    words = f"The database is at {len(revisions)} migrations at once ({', '.join(map(repr, revisions))})"
    if all(map(_OUR_REVISION.fullmatch, revisions)):
        delete = f"DELETE FROM alembic_version WHERE version_num <> '{revisions[-1]}'"  # noqa: S608 - for people
        return (
            f"{words}, as after a restore into a database that was not empty. Its tables are most likely at the last: "
            f"run `{delete}`, then `esms-calls migrate`."
        )
    return f"{words}, and not all of them are of esms-calls: another application uses it too. {_REMEDY}"


def test_write(connection: Connection) -> None:
    """Write without changing anything: fails on a database that is read-only, and where a table is locked.

    The same rights and locks are needed as for storing a report.
    """
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
    for statement in (
        "UPDATE calls SET reference_id = reference_id WHERE 0 = 1",
        "INSERT INTO status_reports (id) SELECT id FROM status_reports WHERE 0 = 1",
    ):
        connection.execute(text(statement))


def upgrade(connection: Connection) -> str | None:
    """Bring the database to the newest migration, if it is older; returns the revision that it had before."""
    before = current_migration(connection)
    if not is_usable(before):
        from alembic import command  # noqa: PLC0415

        config = _alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before


def sessions_with_locks(connection: Connection) -> list[str]:
    """The sessions of PostgreSQL that have locks on this program's tables, for people; the longest first."""
    tables = [name for name in Base.metadata.tables if inspect(connection).has_table(name)]
    query = text(
        "SELECT pid, usename, application_name FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid IN "
        "(SELECT pid FROM pg_locks WHERE granted AND relation = ANY(CAST(CAST(:tables AS text[]) AS regclass[]))) "
        "ORDER BY xact_start NULLS FIRST LIMIT 3"
    )
    return [
        f"process {pid} (role {role}{f', {program}' if program else ''})"
        for pid, role, program in connection.execute(query, {"tables": tables})
    ]


def views_module() -> Any:
    """The newest migration that makes the views: the only place that says what they are; see its functions."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    scripts = ScriptDirectory.from_config(_alembic_config()).walk_revisions()
    return next(script.module for script in scripts if hasattr(script.module, "create_views"))


def _migrations() -> Path:
    """The folder of the migrations: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "migrations", package.parent / "migrations") if folder.is_dir())


def _alembic_config() -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", re.sub("%", "%%", str(_migrations())))
    return config
