"""The ways in which the database can fail a caller."""

from __future__ import annotations


class Unavailable(Exception):
    """The database cannot be reached, or cannot read or write anything now. Its text shows no secret."""

    def __init__(self, words: str, public: str = "the database cannot be used now") -> None:
        """``public`` are words fit for strangers: they name no host, user, database or file."""
        super().__init__(words)
        self.public = public


class WriteFailed(Unavailable):
    """The database answers, and its error's code is about what was to be written: that alone may be the cause.

    It need not be: a trigger may refuse everything. No code of a database that is full, locked, read-only, out of
    something or away is among these.
    """


class TransactionLost(Unavailable):
    """Another transaction was first, or the connection was dead: the same may be tried again; see ``retry``."""


class LockTimeout(Unavailable):
    """Another transaction kept its lock on what was to be changed for too long; nothing is written."""


class NotMigrated(Exception):
    """The database is not as this program needs it: at another migration, another application's, or not in UTF-8.

    Its text says what to do, and names no host, user, database or password.
    """
