"""The ways in which the database can fail a caller."""

from __future__ import annotations


class Unavailable(Exception):
    """The database cannot be reached, or cannot read or write anything now. Its text shows no secret."""


class WriteFailed(Unavailable):
    """The database answers, and its error's code is about what was to be written: that alone may be the cause.

    It need not be: a trigger may refuse everything. No code of a database that is full, locked, read-only, out of
    something or away is among these.
    """


class TransactionLost(Unavailable):
    """Another transaction was first, or the connection was dead: the same may be tried again; see ``retry``."""


class NotMigrated(Exception):
    """The database is not at the migration that this program needs. Its text says what to do."""
