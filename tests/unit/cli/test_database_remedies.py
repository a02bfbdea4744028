"""What is said to do where the database cannot be used fits what is wrong with it."""

from __future__ import annotations

import pytest

from webapp.cli.database_remedies import remedy
from webapp.storage.errors import LockTimeout, Unavailable


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LockTimeout("calls: another transaction has had a lock for too long (canceling)"), "EsmsDatabaseUnavailable"),
        (Unavailable("calls: could not extend file: No space left on device"), "make space"),
        (Unavailable("calls: FATAL:  sorry, too many clients already"), "max_connections"),
        (Unavailable("calls: Connection refused"), "host and port in DATABASE_URL"),
        (Unavailable("READ_DATABASE_URL, calls: Connection refused"), "host and port in READ_DATABASE_URL"),
        (Unavailable("calls: no schema has been selected to create in"), "search_path"),
        (Unavailable("calls: canceling statement due to statement timeout"), "raise statement_timeout"),
        (Unavailable("calls: FATAL:  unsupported startup parameter: options"), "PGOPTIONS"),
        (Unavailable("calls: transaction blocks not allowed in statement pooling mode"), "pool_mode = transaction"),
        (Unavailable('calls: relation "reconcile_runs" does not exist'), "dropped or renamed"),
        (Unavailable('calls: FATAL:  database "calls" does not exist'), "create the role and the database"),
        (Unavailable("calls: something new"), "that the database runs"),
    ],
)
def test_the_remedy_fits_what_the_database_says(error: Unavailable, words: str) -> None:
    assert words in remedy(error)
