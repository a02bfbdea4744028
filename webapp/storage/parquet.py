"""Calls as Parquet, for pandas, DuckDB, Spark and the like: the columns of the table, typed, with their comments.

Needs pyarrow, so it is imported only to write Parquet.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
from pyarrow.parquet import ParquetWriter
from sqlalchemy import Boolean, Integer, SmallInteger

from webapp.storage.models import calls
from webapp.storage.types import Moment, Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Column

_AT_ONCE = 1000
_ROW_GROUP = 100_000
"""Rows that are written, and later read, together."""
_TYPES = [
    (Moment, pa.timestamp("us", tz="UTC")),
    (Money, pa.decimal128(14, 4)),
    (SmallInteger, pa.int16()),
    (Integer, pa.int32()),
    (Boolean, pa.bool_()),
]


def _field(column: Column[Any]) -> pa.Field:
    kind = next((parquet for ours, parquet in _TYPES if isinstance(column.type, ours)), pa.string())
    return pa.field(column.name, kind, metadata={"comment": column.comment or ""})


SCHEMA = pa.schema([_field(column) for column in calls.columns])
_AS_SHOWN = pa.schema(
    [
        field.with_type(pa.string()) if pa.types.is_timestamp(field.type) or pa.types.is_decimal(field.type) else field
        for field in SCHEMA
    ]
)
"""As calls are shown everywhere: times and prices are text."""


def write(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    """Write calls, as they are shown, as one Parquet file; in memory is one group of rows at a time."""
    remaining = iter(rows)
    with ParquetWriter(target, SCHEMA) as file:
        while group := _table(islice(remaining, _ROW_GROUP)):
            file.write_table(group)


def _table(rows: Iterator[dict[str, Any]]) -> pa.Table:
    portions = iter(lambda: list(islice(rows, _AT_ONCE)), [])
    return pa.concat_tables(
        [pa.Table.from_pylist(portion, _AS_SHOWN).cast(SCHEMA) for portion in portions] or [SCHEMA.empty_table()]
    )
