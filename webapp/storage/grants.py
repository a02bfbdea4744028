"""Makes a PostgreSQL role that reads the program's tables and views, and does nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy import text

from webapp.storage import schema
from webapp.storage.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

_LONGEST_ROLE = 63
"""Bytes: PostgreSQL cuts off what follows."""
_RESERVED = {"public", "none", "current_user", "current_role", "session_user"}
_PLACE = (
    "SELECT current_database(), n.nspname, pg_get_userbyid(c.relowner) FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('calls')"
)
_CREATE = """BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN CREATE ROLE {role}; END IF;
END"""
_NO_LARGE_OBJECTS = """BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    REVOKE EXECUTE ON FUNCTION lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) FROM PUBLIC;
  END IF;
END"""
"""Every role may make large objects, and only a superuser can change that."""
_CHECK = """DECLARE found text;
BEGIN
  SELECT CASE
    WHEN rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls
      THEN 'is a superuser, or may make roles or databases'
    WHEN EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) THEN 'is a member of other roles'
    WHEN EXISTS (
        SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid AND deptype = 'o'
      )
      THEN 'owns tables or other objects'
    WHEN has_schema_privilege(r.oid, {schema}, 'CREATE') OR has_database_privilege(r.oid, {database}, 'CREATE, TEMP')
      THEN 'may make tables, as every role may (run this as the owner of the database)'
  END INTO found FROM pg_roles r WHERE rolname = {name};
  IF found IS NOT NULL THEN
    RAISE EXCEPTION USING MESSAGE = 'The role ' || {name} || ' ' || found || ': name a role that only reads.';
  END IF;
END"""


class GrantFailed(Exception):
    """The role cannot be made so; nothing was changed. Its text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class ReadOnlyRole:
    """A role, and its limits."""

    name: str
    statement_timeout: timedelta
    connections: int

    def __post_init__(self) -> None:
        """Raise ValueError for a name that no role can have."""
        if not self.name or not self.name.isprintable() or len(self.name.encode()) > _LONGEST_ROLE:
            raise ValueError(f"must have 1 to {_LONGEST_ROLE} bytes, all of them printable")
        if self.name.startswith("pg_") or self.name in _RESERVED:
            raise ValueError("is reserved by PostgreSQL: use another name")


def statements(connection: Connection, role: ReadOnlyRole) -> list[str]:
    """The SQL that makes the role, or gives it what it lacks; harmless to run again.

    The database is migrated. Later tables and views of their owner can be read without further ado.
    """
    database, schema_name, owner = connection.execute(text(_PLACE)).one()
    own = [sql.Identifier(schema_name, name) for name in _table_names()]
    words = {
        "role": sql.Identifier(role.name),
        "database": sql.Identifier(database),
        "schema": sql.Identifier(schema_name),
        "owner": sql.Identifier(owner),
        "tables": sql.SQL(",\n  ").join(own),
        "connections": sql.Literal(role.connections),
    }
    names = {"name": sql.Literal(role.name), "role": words["role"]}
    places = names | {"schema": sql.Literal(schema_name), "database": sql.Literal(database)}
    driver = connection.connection.driver_connection
    templates = [
        "ALTER ROLE {role} LOGIN CONNECTION LIMIT {connections}",
        *(f"ALTER ROLE {{role}} IN DATABASE {{database}} SET {setting}" for setting in _role_settings(role)),
        "ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}",
        # On PostgreSQL up to 14 every role may make tables in the schema public, and everywhere temporary ones.
        "REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
        "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
        "REVOKE ALL ON DATABASE {database} FROM {role}",
        "REVOKE ALL ON SCHEMA {schema} FROM {role}",
        "REVOKE ALL ON {tables} FROM {role}",
        "GRANT CONNECT ON DATABASE {database} TO {role}",
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        "GRANT SELECT ON {tables} TO {role}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role}",
    ]
    return [
        _block(sql.SQL(_CREATE).format(**names).as_string(driver)),
        *(sql.SQL(template).format(**words).as_string(driver) for template in templates),
        _block(_NO_LARGE_OBJECTS),
        _block(sql.SQL(_CHECK).format(**places).as_string(driver)),
    ]


def _table_names() -> Iterator[str]:
    module: Any = schema.views_module()
    yield from ("alembic_version", *sorted(Base.metadata.tables))
    yield from (view.name for view in module.views(module.words_of("postgresql", "UTC", 0)))


def _role_settings(role: ReadOnlyRole) -> Iterator[str]:
    yield "default_transaction_read_only = on"
    yield f"statement_timeout = {round(role.statement_timeout.total_seconds() * 1000)}"
    yield "idle_in_transaction_session_timeout = 60000"


def _block(body: str) -> str:
    quote = "$do$"
    while quote in body:
        quote = f"$d{quote[1:]}"
    return f"DO {quote}{body}{quote}"


def grant(connection: Connection, role: ReadOnlyRole, password: str | None = None) -> None:
    """Run them, and set the password if there is one; to be rolled back if it raises GrantFailed.

    The password is hashed here: PostgreSQL, and its log, see only the hash.
    """
    driver: Any = connection.connection.driver_connection
    try:
        for statement in statements(connection, role):
            driver.execute(statement)
        if password is not None:
            hashed = driver.pgconn.encrypt_password(password.encode(), role.name.encode(), b"scram-sha-256")
            words = {"role": sql.Identifier(role.name), "password": sql.Literal(hashed.decode())}
            driver.execute(sql.SQL("ALTER ROLE {role} PASSWORD {password}").format(**words))
    except psycopg.errors.InsufficientPrivilege as error:
        raise GrantFailed(
            f"{error.diag.message_primary}. Nothing was changed: the user of DATABASE_URL may not do this. Without "
            "--run the statements are printed, for one who may: the tables' owner with CREATEROLE, or a superuser."
        ) from None
    except psycopg.Error as error:
        if error.sqlstate is None:  # The connection was lost.
            raise
        raise GrantFailed(f"{error.diag.message_primary} Nothing was changed.") from None
