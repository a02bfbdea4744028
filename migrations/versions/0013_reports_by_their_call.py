"""Reports are unique by their call and their id, so that a database can be spread over machines by calls.

A partitioned or distributed table has no unique key without the column that it is spread by. The key finds a call's
history, too, so one index less grows at random places. On PostgreSQL callbacks wait in the spool while the key is built
(9 seconds for 3 million reports); on SQLite the table is written anew.
A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

TABLE = "status_reports"
BY_ID, BY_CALL = "PRIMARY KEY (id)", "PRIMARY KEY (reference_id, id)"
HISTORY = ("ix_status_reports_call", TABLE, ["reference_id", "received_at", "id"])


def replace_key(old: str, new: str) -> None:
    """Give the table another primary key."""
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint("pk_status_reports", TABLE)
        op.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT pk_status_reports {new}")
        return
    connection = op.get_bind()
    query = sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :table AND type = :type AND sql IS NOT NULL")
    table = connection.scalar(query, {"table": TABLE, "type": "table"})
    indexes = connection.scalars(query, {"table": TABLE, "type": "index"}).all()
    statements = [
        # Otherwise SQLite lets the views read the renamed table.
        "PRAGMA legacy_alter_table = ON",
        f"ALTER TABLE {TABLE} RENAME TO old_reports",
        "PRAGMA legacy_alter_table = OFF",
        table.replace(old, new),
        f"INSERT INTO {TABLE} SELECT * FROM old_reports ORDER BY rowid",  # noqa: S608 - names of our own tables
        "DROP TABLE old_reports",
        *indexes,
    ]
    for statement in statements:
        connection.exec_driver_sql(statement)


def upgrade() -> None:
    """Replace the key, and drop the index that it makes superfluous; programs before look for reports by id alone."""
    op.drop_index(HISTORY[0], TABLE)
    replace_key(BY_ID, BY_CALL)
    op.execute("UPDATE schema_compatibility SET usable_from = '0013'")


def downgrade() -> None:
    """Make both as they were."""
    replace_key(BY_CALL, BY_ID)
    op.create_index(*HISTORY)
    op.execute("UPDATE schema_compatibility SET usable_from = '0008'")
