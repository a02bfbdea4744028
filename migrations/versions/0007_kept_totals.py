"""Totals of calls that were purged, which figures go on counting.

A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

MEASURES = {
    "calls": "Number of calls",
    "with_outcome": "Of these, number of those that were answered, unanswered or other",
    "answered": "Number of answered calls",
    "timed": "Number of answered calls whose length is known",
    "answered_seconds": "Seconds of the answered calls together",
    "price": "Known prices together, without what each has behind the point, in VND",
    "price_fraction": "What prices have behind the point, together, in 1/10,000 VND",
    "unpriced": "Number of calls whose price is not known",
    "recovered": "Number of calls that a look-up settled and of which no final callback came",
    "conflicts": "Number of calls in conflict",
    "confirmed": "Number of calls that a final look-up confirmed",
    "unregistered": "Number of calls that were never registered",
}


def upgrade() -> None:
    """Make the table: nothing is in it until a purge keeps totals."""
    op.create_table(
        "kept_rollups",
        sa.Column("campaign", sa.Text(), comment="The campaign of the purged calls. NULL: they had none"),
        sa.Column("facet", sa.Text(), nullable=False, comment="What label says: outcome, hour, key, talk or delay"),
        sa.Column(
            "local_day",
            sa.Date(),
            nullable=False,
            comment="The day on which the calls were placed, by the clocks of TIME_ZONE when they were purged",
        ),
        sa.Column("label", sa.Text(), nullable=False, comment="As in call_rollups"),
        *(sa.Column(name, sa.BigInteger(), nullable=False, comment=words) for name, words in MEASURES.items()),
        comment="Totals of calls that `esms-calls purge --keep-totals` removed: call_rollups counts them too",
    )
    op.create_index(
        "uq_kept_rollups",
        "kept_rollups",
        ["local_day", "facet", "label", sa.text("coalesce(campaign, '')")],
        unique=True,
    )


def downgrade() -> None:
    """Drop it, and with it what is left of the purged calls."""
    op.drop_table("kept_rollups")
