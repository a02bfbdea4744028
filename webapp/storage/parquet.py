"""Calls or reports as Parquet, for pandas, DuckDB, Spark and the like: the table's columns, typed, with comments.

Needs pyarrow, so it is imported only to write Parquet.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
from pyarrow.parquet import ParquetWriter
from sqlalchemy import Boolean, Integer, SmallInteger

from webapp.storage.types import Moment, Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Column

_ROWS_OF_A_GROUP = 1000
_ROW_GROUP = 100_000
"""Rows that are written, and later read, together."""
_PARQUET_TYPES = [
    (Moment, pa.timestamp("us", tz="UTC")),
    (Money, pa.decimal128(14, 4)),
    (SmallInteger, pa.int16()),
    (Integer, pa.int32()),
    (Boolean, pa.bool_()),
]


def _parquet_field(column: Column[Any]) -> pa.Field:
    kind = next((parquet for ours, parquet in _PARQUET_TYPES if isinstance(column.type, ours)), pa.string())
    return pa.field(column.name, kind, metadata={"comment": column.comment or ""})


def write(rows: Iterable[dict[str, Any]], target: BinaryIO, *, columns: Sequence[Column[Any]]) -> None:
    """Write these columns of rows, as they are shown, as one Parquet file; in memory is one group of rows."""
    write_as(rows, target, schema_of(columns))


def schema_of(columns: Sequence[Column[Any]], **metadata: str) -> pa.Schema:
    """The columns' types and comments, and what else the file is to say."""
    return pa.schema([_parquet_field(column) for column in columns], metadata=metadata or None)


def write_as(rows: Iterable[dict[str, Any]], target: BinaryIO, schema: pa.Schema) -> None:
    """The same with a schema."""
    remaining = iter(rows)
    with ParquetWriter(target, schema) as file:
        while group := _table(islice(remaining, _ROW_GROUP), schema):
            file.write_table(group)


def _table(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    portions = iter(lambda: list(islice(rows, _ROWS_OF_A_GROUP)), [])
    shown = pa.schema([_as_shown(field) for field in schema])
    return pa.concat_tables(
        [pa.Table.from_pylist(portion, shown).cast(schema) for portion in portions] or [schema.empty_table()]
    )


def _as_shown(field: pa.Field) -> pa.Field:
    """As calls are shown everywhere: times and prices are text."""
    is_text = pa.types.is_timestamp(field.type) or pa.types.is_decimal(field.type)
    return field.with_type(pa.string()) if is_text else field
