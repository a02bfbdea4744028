"""Column types that hold the same values on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    DateTime,
    Numeric,
    String,
    Text,
    Uuid,
)
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine


REFERENCE = Text().with_variant(Text(collation="C"), "postgresql")
"""A call's identity: compared and sorted byte by byte on both databases."""


def iso(moment: datetime) -> str:
    """A time in the one form that is stored and shown: ``2026-11-23T10:00:00.123456Z``, always that wide."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """A column's value as JSON and CSV show it: times with Z, exact prices and ids as text."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Decimal | UUID):
        return str(value)
    return joined(value) if isinstance(value, frozenset) else value


def joined(names: frozenset[str]) -> str | None:
    """Names in the one form in which a set of them is stored and shown; None for no names."""
    return ",".join(sorted(names)) or None


class Moment(TypeDecorator[datetime]):
    """An aware time: ``timestamptz``, on SQLite text that sorts as time does."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        return DateTime(timezone=True) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database."""
        return value if value is None or dialect.name == "postgresql" else iso(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database, in UTC."""
        if value is None:
            return None
        moment: datetime = value if dialect.name == "postgresql" else datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


class Identifier(TypeDecorator[UUID]):
    """A UUID: ``uuid``, on SQLite 36 lower-case characters."""

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        return Uuid() if dialect.name == "postgresql" else String(36)

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        """To the database."""
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:  # noqa: ARG002
        """From the database."""
        return value if value is None or isinstance(value, UUID) else UUID(value)


class Money(TypeDecorator[Decimal]):
    """An exact amount with four decimals: ``numeric(14,4)``, on SQLite NUMERIC affinity (15 digits are exact there)."""

    impl = Numeric(14, 4)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        return Numeric(14, 4) if dialect.name == "postgresql" else Numeric(14, 4, asdecimal=False)

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """To the database."""
        return value if value is None or dialect.name == "postgresql" else float(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        """From the database."""
        return None if value is None else Decimal(str(value)).quantize(Decimal("0.0001"))


class Names(TypeDecorator[frozenset[str]]):
    """A set of column names, as text with commas between them; NULL when empty."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: frozenset[str] | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """To the database."""
        return joined(value) if value else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> frozenset[str]:  # noqa: ARG002
        """From the database."""
        return frozenset(value.split(",")) if value else frozenset()
