"""Calls need no summary of their history any more, and the shared pace of look-ups is called their rate.

Both tables can be made anew: a summary from the history, and the rate at the next run. So they are dropped and made.
A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def moment() -> sa.types.TypeEngine[Any]:
    """A time: on SQLite text of a fixed width, which sorts as time does."""
    return sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def reference() -> sa.types.TypeEngine[Any]:
    """A call's identity: compared and sorted byte by byte on both databases."""
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Drop the summaries, and make the table of the rate."""
    op.drop_table("call_trails")
    op.drop_table("lookup_pace")
    op.create_table(
        "lookup_rate",
        sa.Column("one", sa.SmallInteger(), autoincrement=False, nullable=False, comment="Always 1: one row"),
        sa.Column("next_slot_at", moment(), nullable=False, comment="When the next look-up may be sent, UTC"),
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
        sa.PrimaryKeyConstraint("one", name="pk_lookup_rate"),
        comment="One row: the rate at which all reconcile runs together may ask eSMS",
    )


def downgrade() -> None:
    """Make both tables as they were, empty: the program before fills them when it needs them."""
    op.drop_table("lookup_rate")
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
    op.create_table(
        "call_trails",
        sa.Column("reference_id", reference(), nullable=False, comment="The call; see calls"),
        sa.Column(
            "trail",
            sa.Text(),
            nullable=False,
            comment="The summary as JSON; made from status_reports, and made anew when it is missing",
        ),
        sa.PrimaryKeyConstraint("reference_id", name="pk_call_trails"),
        comment="Of calls with many reports: a summary that can take one more wherever it belongs",
    )
