"""Runs a function in one transaction, for tests that pass it on to threads or try it on many databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from webapp.storage.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from webapp.storage.database import Database

T = TypeVar("T")


@retrying
def write(database: Database, work: Callable[[Connection], T]) -> T:
    """What ``work`` returns in a transaction that writes; it runs again if that is lost."""
    with database.transaction() as connection:
        return work(connection)


def ask(database: Database, work: Callable[[Connection], T]) -> T:
    """What ``work`` returns in a transaction that reads, within the database's time limit."""
    with database.snapshot() as connection:
        return work(connection)


def read(database: Database, work: Callable[[Connection], T]) -> T:
    """What ``work`` returns in a transaction that reads for as long as it takes."""
    with database.snapshot(limited=False) as connection:
        return work(connection)
