"""The database says which older versions of the program can use it, so that servers are replaced one by one.

A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table with its one row: programs from this migration on can use what later ones add to."""
    table = op.create_table(
        "schema_compatibility",
        sa.Column("one", sa.SmallInteger(), autoincrement=False, nullable=False, comment="Always 1: one row"),
        sa.Column(
            "migration", sa.Text(), nullable=False, comment="The migration of the database when this row was written"
        ),
        sa.Column(
            "usable_from",
            sa.Text(),
            nullable=False,
            comment="The oldest migration whose program can use these tables: all later ones have only added to them",
        ),
        sa.PrimaryKeyConstraint("one", name="pk_schema_compatibility"),
        comment="One row: which older versions of esms-calls can use the database beside the newest",
    )
    op.bulk_insert(table, [{"one": 1, "migration": revision, "usable_from": revision}])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("schema_compatibility")
