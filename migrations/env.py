"""Runs the migrations, on the connection that `esms-calls migrate` hands over or, for `alembic` itself, on its own."""

from typing import Any

from alembic import context
from sqlalchemy import inspect, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateTable

from webapp.storage.database import Database
from webapp.storage.models import Base
from webapp.storage.retry import lock_retrying
from webapp.support.settings import load_settings

_LOCK_TIMEOUT = "1s"
"""How long a migration waits for a lock on a table. Callbacks wait behind it, and go to the spool after 4 seconds."""
_LOCK = 7_311_404_116
"""Any number that no other program takes: two migrations at the same moment do one after the other."""


@compiles(CreateTable, "sqlite")
def _table_with_comment(create: CreateTable, compiler: Any, **options: Any) -> str:
    """SQLite knows no comments, but keeps the text of CREATE TABLE as it was given."""
    table: str = compiler.visit_create_table(create, **options)
    return table.replace("(", f"( /* {create.element.comment} */", 1) if create.element.comment else table


@compiles(CreateColumn, "sqlite")
def _column_with_comment(create: CreateColumn, compiler: Any, **options: Any) -> str:
    column = compiler.visit_create_column(create, **options)
    return f"{column} /* {create.element.comment} */" if create.element.comment else column


def _in_models(_object: Any, name: str | None, *_rest: Any) -> bool:
    """Whether `alembic check` compares it: the index of local days has the time zone in it, which no model knows."""
    return name != "ix_calls_local_day"


def _run(connection: Any) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    context.configure(
        connection=connection, target_metadata=Base.metadata, transactional_ddl=True, include_object=_in_models
    )
    with context.begin_transaction():
        context.run_migrations()
    if inspect(connection).has_table("schema_compatibility"):
        connection.execute(
            text("UPDATE schema_compatibility SET migration = (SELECT version_num FROM alembic_version)")
        )


@lock_retrying
def _run_alone(database: Database) -> None:
    with database.transaction() as connection:
        _run(connection)


given = context.config.attributes.get("connection")
if given is None:
    own = Database(load_settings().database)
    _run_alone(own)
    own.close()
else:
    _run(given)
