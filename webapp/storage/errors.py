"""The ways in which the database can fail a caller."""

from __future__ import annotations

from typing import Literal

Why = Literal[
    "the database cannot be used now",
    "the database cannot be reached",
    "the database is locked",
    "the database is read-only",
    "the database has no space on its disk",
    "the database refuses this server's user",
    "the database takes no more connections",
    "the database answers too slowly",
    "the file is damaged, or not a database",
    "this server is out of memory",
    "the database is not at the migration that this server needs: run `esms-calls migrate`",
    "the database is at a newer migration than this server knows: upgrade esms-calls",
    "the database is at several migrations at once",
    "the database is not one of esms-calls",
    "the database is not in UTF8",
]
"""All that strangers see of the state of the database: nothing that a database says itself."""


class Unavailable(Exception):
    """The database cannot be reached, or cannot read or write anything now. Its text shows no secret."""

    def __init__(self, words: str, why: Why = "the database cannot be used now") -> None:
        """``why`` is for strangers."""
        super().__init__(words)
        self.why = why


class WriteFailed(Unavailable):
    """The database answers, and its error's code is about what was to be written: that alone may be the cause.

    It need not be: a trigger may refuse everything. No code of a database that is full, locked, read-only, out of
    something or away is among these.
    """


class TransactionLost(Unavailable):
    """Another transaction was first, or the connection was dead: the same may be tried again; see ``retry``."""


class InsertedMeanwhile(TransactionLost):
    """Another transaction has inserted what this one took to be absent: the same may be tried again at once."""


class LockTimeout(Unavailable):
    """Another transaction kept its lock on what was to be changed for too long; nothing is written."""


class NotMigrated(Exception):
    """The database is not as this program needs it: at another migration, another application's, or not in UTF-8.

    Its text says what to do, and names no host, user, database or password.
    """

    def __init__(
        self,
        words: str,
        why: Why = "the database is not at the migration that this server needs: run `esms-calls migrate`",
    ) -> None:
        """``why`` is for strangers."""
        super().__init__(words)
        self.why = why
