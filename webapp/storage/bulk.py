"""Writes many rows of one table by one statement, in the dialect of the database.

PostgreSQL gets all rows as one JSON parameter: a third of the cost of one parameter for each value. SQLite runs in this
process, where one statement a row costs little.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from functools import cache, lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import ARRAY, String, any_, bindparam, func, text
from sqlalchemy.dialects import postgresql, sqlite

from webapp.storage.types import iso, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Column, ColumnElement, Table
    from sqlalchemy.engine import Connection


def insert_absent(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is absent; returns their number. All rows have the same columns."""
    return _execute(connection, _insert_sql(table, tuple(rows[0]), connection.dialect.name), rows)


def update(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, keys: int = 1) -> None:
    """Update the rows with these keys; the last ``keys`` columns are the key, and all rows have the same columns."""
    _execute(connection, _update(table, tuple(rows[0]), connection.dialect.name, keys), rows)


def insert_of(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that may have an ON CONFLICT, in the dialect of the database."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def greatest(dialect: str) -> Any:
    """The function that gives the greatest of its values."""
    return func.greatest if dialect == "postgresql" else func.max


def add_up(
    connection: Connection,
    table: Table,
    rows: Collection[Mapping[str, Any]],
    *,
    sums: Collection[str],
    latest: Collection[str] = (),
) -> None:
    """Insert the rows; where the key is there already, add the ``sums`` to its, and keep the later ``latest``."""
    if not rows:
        return
    insert, later = insert_of(table, connection.dialect.name), greatest(connection.dialect.name)
    keys = [column.name for column in table.primary_key]
    more = {name: table.c[name] + insert.excluded[name] for name in sums}
    more |= {name: later(table.c[name], insert.excluded[name]) for name in latest}
    # In one order for all processes, so that their transactions do not lock each other out.
    ordered = sorted(rows, key=lambda row: [row[key] for key in keys])
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=more), ordered)


def _execute(connection: Connection, statement: str, rows: Sequence[Mapping[str, Any]]) -> int:
    parameters: Any
    if connection.dialect.name == "postgresql":
        said = [
            {
                name: value if type(value) in _PLAIN else _json_value(value)
                for name, value in row.items()
                if value is not None
            }
            for row in rows
        ]
        parameters = (json.dumps(said, ensure_ascii=False),)
    else:
        parameters = [tuple(_encoded_values(row.values())) for row in rows]
    return connection.exec_driver_sql(statement, parameters).rowcount


_PLAIN = {NoneType, str, int, bool}
_iso = lru_cache(maxsize=256)(iso)
"""Cached: a new call and its report mostly have the same time."""
_AS_TEXT: dict[type, Callable[[Any], str | None]] = {
    datetime: _iso,
    date: date.isoformat,
    UUID: str,
    Decimal: str,
    frozenset: joined,
}


def _encoded_values(values: Iterable[Any]) -> list[Any]:
    return [value if type(value) in _PLAIN else _json_value(value) for value in values]


def _json_value(value: Any) -> Any:
    """A value as JSON and SQLite take it; the database casts the text to the column's type."""
    kind = type(value)
    # The exact type first, for speed; a fake clock may return a subclass of datetime.
    if as_text := _AS_TEXT.get(kind) or next((_AS_TEXT[base] for base in kind.__mro__ if base in _AS_TEXT), None):
        return as_text(value)
    raise TypeError(f"no column holds a {kind.__name__}")


@cache
def _insert_sql(table: Table, names: tuple[str, ...], dialect: str) -> str:
    columns = ", ".join(names)
    source = (
        f"SELECT {columns} FROM {_recordset(table, names)}"  # noqa: S608 - names of our own tables
        if dialect == "postgresql"
        else f"VALUES ({', '.join('?' * len(names))})"
    )
    return f"INSERT INTO {table.name} ({columns}) {source} ON CONFLICT DO NOTHING"


@cache
def _update(table: Table, names: tuple[str, ...], dialect: str, keys: int) -> str:
    columns, key = names[:-keys], names[-keys:]
    if dialect != "postgresql":
        words = ", ".join(f"{name} = ?" for name in columns)
        return f"UPDATE {table.name} SET {words} WHERE {' AND '.join(f'{name} = ?' for name in key)}"  # noqa: S608
    words = ", ".join(f"{name} = new.{name}" for name in columns)
    same = " AND ".join(f"{table.name}.{name} = new.{name}" for name in key)
    return f"UPDATE {table.name} SET {words} FROM {_recordset(table, names)} WHERE {same}"  # noqa: S608


def _recordset(table: Table, names: tuple[str, ...]) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = (table.c[name].type.dialect_impl(dialect) for name in names)
    words = ("TEXT" if isinstance(kind, String) else kind.compile(dialect) for kind in types)
    return f"json_to_recordset(%s::json) AS new({', '.join(map(' '.join, zip(names, words, strict=True)))})"


def is_one_of(connection: Connection, column: Column[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Whether the column has one of the values; on PostgreSQL one statement for any number, so it is prepared once."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), ARRAY(column.type)))
    return column.in_(list(values))


def is_one_of_values(column: Column[Any], dialect: str, name: str = "values") -> ColumnElement[bool]:
    """The same for a statement that is built once and executed with ``values``: a fifth of the cost."""
    if dialect == "postgresql":
        return column == any_(bindparam(name, type_=ARRAY(column.type)))
    return column.in_(text(f"SELECT value FROM json_each(:{name})"))  # noqa: S608


def values(connection: Connection, of: Collection[Any], name: str = "values") -> dict[str, Any]:
    """The parameter ``name`` of such a statement."""
    if connection.dialect.name == "postgresql":
        return {name: list(of)}
    return {name: json.dumps(_encoded_values(of))}
