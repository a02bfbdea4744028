"""Callbacks from addresses that are not allowed, counted by the hour, so that `status` names them.

It only adds a table. A migration imports nothing of `webapp`, so that it stays what it was; and it has a working
downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Make the table."""
    moment = sa.DateTime(timezone=True) if op.get_context().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "not_allowed_requests",
        sa.Column("hour", moment, nullable=False, comment="Beginning of the hour, UTC"),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="Number of these requests in the hour"),
        sa.Column("last_at", moment, nullable=False, comment="When the last of them came, UTC"),
        sa.PrimaryKeyConstraint("hour", name="pk_not_allowed_requests"),
        comment="One row for each hour with requests from an address not in CALLBACK_ALLOWED_IPS, token right",
    )


def downgrade() -> None:
    """Drop it, and with it the counts."""
    op.drop_table("not_allowed_requests")
