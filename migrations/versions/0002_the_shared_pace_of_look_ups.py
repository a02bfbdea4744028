"""Reconcile runs on one database share one pace, and find those calls first that eSMS was never asked about.

On a large table the index takes a few seconds to build; callbacks that come meanwhile wait in the spool.
A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

UNASKED = "settled_at IS NULL AND gave_up_at IS NULL AND lookup_count = 0"


def moment() -> sa.types.TypeEngine[Any]:
    """A time: on SQLite text of a fixed width, which sorts as time does."""
    return sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    """Create the pace, and an index of the calls that eSMS was never asked about."""
    op.create_table(
        "lookup_pace",
        sa.Column("one", sa.SmallInteger(), autoincrement=False, nullable=False, comment="Always 1: one row"),
        sa.Column("next_at", moment(), nullable=False, comment="The next free moment for a look-up to leave, UTC"),
        sa.Column(
            "share",
            sa.Float(),
            nullable=False,
            comment="The share of RECONCILE_RATE, above 0 to 1, to which eSMS slowed the look-ups at slowed_at",
        ),
        sa.Column(
            "slowed_at",
            moment(),
            comment="When eSMS last said that we ask too fast, UTC; since then the share grows. NULL: never",
        ),
        sa.PrimaryKeyConstraint("one", name="pk_lookup_pace"),
        comment="One row: at what pace all reconcile runs together may ask eSMS",
    )
    op.create_index(
        "ix_calls_unasked",
        "calls",
        ["next_lookup_at", "placed_at"],
        postgresql_where=sa.text(UNASKED),
        sqlite_where=sa.text(UNASKED),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_index("ix_calls_unasked", "calls")
    op.drop_table("lookup_pace")
