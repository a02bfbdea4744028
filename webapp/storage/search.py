"""Finds calls by the beginning of their id, request id or phone number, however the number is written and stored."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select, union, union_all

from webapp.calls.phone import e164, is_hash
from webapp.storage.models import calls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Column, ColumnElement, CompoundSelect
    from sqlalchemy.engine import Connection

    from webapp.calls.phone import PhoneStorage

MOST_FOUND = 1000
"""Calls that are looked up by each kind of beginning; where there are more, calls are read and compared."""
_END = "\U0010ffff"
"""The last character there is: what begins with a text lies between the text and the text with it."""
_SHORTEST_PHONE = 3


@dataclass(frozen=True, slots=True)
class Search:
    """What an id, request id or phone number begins with; ``phone_hash``: the same number as it may be stored."""

    text: str
    phone_hash: str | None = None

    @classmethod
    def of(cls, text: str, phones: PhoneStorage) -> Search:
        """A search that finds a hashed number, too, by the whole number or the hash."""
        text = unicodedata.normalize("NFC", text.strip())
        return cls(text, phones.hashed(text) if e164(text) else text if is_hash(text) else None)

    def condition(self) -> ColumnElement[bool]:
        """That a call is one of these, by comparing each."""
        return or_(
            *(func.substr(column, 1, len(text)) == text for column, text in _prefixes(self.text)),
            *self._has_hash(),
        )

    def ids(self, connection: Connection) -> CompoundSelect[Any] | None:
        """The query for the ids of these calls, by indexes; None: there are more than ``MOST_FOUND`` of a kind."""
        conditions = [*(_by_index(connection, *one) for one in _prefixes(self.text)), *self._has_hash()]
        each = [select(calls.c.reference_id).where(one) for one in conditions]
        one_more = (one.offset(MOST_FOUND).limit(1).subquery() for one in each)
        if connection.execute(union_all(*(select(one) for one in one_more))).first():
            return None
        limited = (one.limit(MOST_FOUND).subquery() for one in each)
        return union(*(select(one.c.reference_id) for one in limited))

    def _has_hash(self) -> Iterator[ColumnElement[bool]]:
        if self.phone_hash:
            # As the index of such phones says it.
            yield and_(calls.c.phone == self.phone_hash, calls.c.phone_e164.is_(None), calls.c.phone.is_not(None))


def _by_index(connection: Connection, column: Column[Any], text: str) -> ColumnElement[bool]:
    # These indexes of PostgreSQL are for the operators that compare bytes.
    by_bytes = connection.dialect.name == "postgresql" and column is not calls.c.reference_id
    at_least, below = ("~>=~", "~<~") if by_bytes else (">=", "<")
    return column.op(at_least, is_comparison=True)(text) & column.op(below, is_comparison=True)(text + _END)


def _prefixes(text: str) -> Iterator[tuple[Column[Any], str]]:
    yield calls.c.reference_id, text.lower()
    yield calls.c.request_id, text
    if phone := _as_phone(text):
        yield calls.c.phone_e164, phone


def _as_phone(text: str) -> str | None:
    """The beginning of a phone number, in its one form; None if it is none."""
    bare = "".join(letter for letter in text.replace("(0)", "") if letter not in " .-()")
    if bare.startswith("00"):
        bare = f"+{bare[2:]}"
    digits = bare.removeprefix("+")
    if digits.startswith("840"):
        digits = f"84{digits[3:]}"
    if not (digits.isascii() and digits.isdigit() and len(digits) >= _SHORTEST_PHONE):
        return None
    if bare.startswith("+") or digits.startswith("84"):
        return f"+{digits}"
    return f"+84{digits.removeprefix('0')}"
