"""${message}: why.

Servers of the version before go on serving on the new schema while they are replaced, so a migration only adds:
- A new column can be NULL or has a default. A table, view, column, key or default that the version before uses stays
  as it is: no rename, no other type, no new constraint on an old table. `tests/integration/storage/
  test_expand_and_contract.py` compares the schemas before and after.
- New columns are the last ones of their table, in the models, too. SQLite keeps comments in the text of the table, where
  `op.add_column` leaves them out: add columns as migration 0005 does (`add`).
- What no version uses any more is dropped one release later, in a migration of its own which also says so:
  `UPDATE schema_compatibility SET usable_from = '<its revision>'`. Older programs then refuse the database.
- It waits one second for each lock, and the whole is tried again for a minute (`migrations/env.py`): so no statement may
  keep a lock on `calls` or `status_reports` for long. Callbacks go to the spool meanwhile.
A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
