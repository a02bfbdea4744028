"""What to do where the database cannot be used, by what it says: for doctor, status and the errors of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.storage.errors import Unavailable

_REMEDIES = {
    "lock for too long": "end the transaction that holds the lock: docs/operations.md has the statement that shows it "
    "(EsmsDatabaseUnavailable)",
    "database is locked": "another process keeps it locked: `fuser -v FILE` names it; end its transaction",
    "readonly database": "make file and folder writable for this user (chown), and see whether the disk is read-only",
    "unable to open": "make file and folder readable and writable for this user (chown)",
    "not a database": "the file is damaged, or another program's: correct DATABASE_URL, "
    "or `esms-calls restore --force` a backup",
    "malformed": "the file is damaged: keep a copy, and `esms-calls restore` a backup",
    "disk is full": "make space on its disk",
    "No space left": "make space on its disk",
    "password authentication": "correct user and password in DATABASE_URL",
    "no password supplied": "write the password into DATABASE_URL: postgresql://user:password@host/name",
    "Connection refused": "start PostgreSQL, or correct host and port in DATABASE_URL",
    "resolve host": "correct the host in DATABASE_URL",
    "translate host": "correct the host in DATABASE_URL",
    'relation "': "a table or view is not there: was it dropped or renamed? Restore it from a backup",
    "no such table": "a table or view is not there: was it dropped or renamed? `esms-calls restore` a backup",
    "does not exist": "create the role and the database, or correct DATABASE_URL; then `esms-calls migrate`",
    "permission denied": "let the user of DATABASE_URL own the tables, or grant it the rights",
    "read-only transaction": "it is a standby: let DATABASE_URL name the primary (target_session_attrs=read-write); "
    "if it is none, reset default_transaction_read_only",
    "no schema has been selected": "search_path names no schema that exists: create it, or name another one in "
    "DATABASE_URL (options=-csearch_path%3DNAME)",
    "statement timeout": "raise statement_timeout, which the role or the database sets",
    "startup parameter": "PgBouncer takes none: take it out of DATABASE_URL (options) and PGOPTIONS, set it for the "
    "role (ALTER ROLE)",
    "pooling mode": "set pool_mode = transaction in PgBouncer",
    "too many": "raise max_connections of PostgreSQL, or put PgBouncer between",
}
_OTHERWISE = "check DATABASE_URL, that the database runs, and the network between"


def remedy(error: Unavailable) -> str:
    """What to do about the error; of a replica it names the replica's setting."""
    words = str(error)
    found = next((remedy for said, remedy in _REMEDIES.items() if said.lower() in words.lower()), _OTHERWISE)
    return found.replace("DATABASE_URL", "READ_DATABASE_URL") if words.startswith("READ_DATABASE_URL") else found
