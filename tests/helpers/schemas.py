"""What two schemas, before and after a migration, mean for a program that was made for the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.engine.reflection import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Inspector


@dataclass(frozen=True)
class Shape:
    """All that the statements of a program can depend on."""

    columns: dict[tuple[str, str], dict[str, Any]]
    """By table or view, and column."""
    keys: set[tuple[str, tuple[str, ...]]]
    """Table, and the columns that are unique together."""
    conditions: set[tuple[str, str]]
    """Table, and what its rows must meet."""


def shape_of(connection: Connection) -> Shape:
    """The schema as the database describes it, besides Alembic's own table."""
    inspector = inspect(connection)
    found = {name: columns for (_, name), columns in inspector.get_multi_columns(kind=ObjectKind.ANY).items()}
    return Shape(
        columns={
            (name, column["name"]): {
                "type": str(column["type"]),
                "nullable": column["nullable"],
                "fills itself": bool(column.get("default") or column.get("computed") or column.get("identity")),
            }
            for name, columns in found.items()
            if name != "alembic_version"
            for column in columns
        },
        keys=set(_unique_keys(inspector)),
        conditions=set(_conditions(inspector)),
    )


def _unique_keys(inspector: Inspector) -> Iterator[tuple[str, tuple[str, ...]]]:
    for (_, table), primary in inspector.get_multi_pk_constraint().items():
        if primary and primary["constrained_columns"]:
            yield table, tuple(sorted(primary["constrained_columns"]))
    for (_, table), constraints in inspector.get_multi_unique_constraints().items():
        yield from ((table, tuple(sorted(one["column_names"]))) for one in constraints)
    for (_, table), indexes in inspector.get_multi_indexes().items():
        yield from ((table, tuple(sorted(map(str, one["column_names"])))) for one in indexes if one["unique"])


def _conditions(inspector: Inspector) -> Iterator[tuple[str, str]]:
    for (_, table), checks in inspector.get_multi_check_constraints().items():
        yield from ((table, str(check["sqltext"])) for check in checks)
    for (_, table), keys in inspector.get_multi_foreign_keys().items():
        yield from ((table, f"{key['constrained_columns']} in {key['referred_table']}") for key in keys)


def breaks(before: Shape, after: Shape) -> Iterator[str]:
    """What a program that was made for ``before`` may fail with on ``after``: nothing, if this only adds."""
    old_tables = {table for table, _ in before.columns}
    for place, column in before.columns.items():
        yield from (f"{'.'.join(place)} {words}" for words in _changes(column, after.columns.get(place)))
    for (table, name), column in after.columns.items():
        if (table, name) not in before.columns and table in old_tables and _needs_a_value(column):
            yield f"{table}.{name} is new and needs a value"
    for table, columns in before.keys - after.keys:
        yield f"{table} has no unique key of {', '.join(columns)} any more"
    yield from (
        f"{table} has a new unique key of {', '.join(columns)}"
        for table, columns in after.keys - before.keys
        if table in old_tables
    )
    yield from (
        f"{table} has a new condition: {words}"
        for table, words in after.conditions - before.conditions
        if table in old_tables
    )


def _changes(column: dict[str, Any], now: dict[str, Any] | None) -> Iterator[str]:
    if now is None:
        yield "is gone or renamed"
        return
    if now["type"] != column["type"]:
        yield f"was {column['type']} and is {now['type']}"
    if column["nullable"] and not now["nullable"]:
        yield "must not be NULL any more"
    if column["fills itself"] and not now["fills itself"]:
        yield "has no default any more"


def _needs_a_value(column: dict[str, Any]) -> bool:
    return not (column["nullable"] or column["fills itself"])
