"""How long look-ups took, which the command reconcile adds up for /metrics; and indexes for what /metrics reads.

A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

ANSWERED = sa.text("answered_at IS NOT NULL")


def upgrade() -> None:
    """Make the table and the indexes: of small tables, so that no callback waits."""
    op.create_table(
        "lookup_latencies",
        sa.Column(
            "code",
            sa.Text(),
            nullable=False,
            comment="How the look-ups ended: eSMS's code, timeout and the like, or other for a rare code",
        ),
        sa.Column(
            "edge_ms",
            sa.Integer(),
            nullable=False,
            comment="Upper edge of the class, in milliseconds, inclusive; 2147483647: longer than all other edges",
        ),
        sa.Column("lookups", sa.BigInteger(), nullable=False, comment="Number of look-ups of the class"),
        sa.Column("seconds", sa.Float(), nullable=False, comment="Seconds that they took together"),
        sa.PrimaryKeyConstraint("code", "edge_ms", name="pk_lookup_latencies"),
        comment="Look-ups of all reconcile runs and audits by code and by how long they took, for /metrics",
    )
    op.create_index("ix_rejected_callbacks_reasons", "rejected_callbacks", ["replayed_at", "dismissed_at", "reason"])
    op.create_index("ix_reconcile_runs_outcome", "reconcile_runs", ["outcome", "started_at"])
    op.create_index(
        "ix_reconcile_runs_answered_at",
        "reconcile_runs",
        ["answered_at"],
        postgresql_where=ANSWERED,
        sqlite_where=ANSWERED,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_reconcile_runs_answered_at", "reconcile_runs")
    op.drop_index("ix_reconcile_runs_outcome", "reconcile_runs")
    op.drop_index("ix_rejected_callbacks_reasons", "rejected_callbacks")
    op.drop_table("lookup_latencies")
