"""Callbacks counted by hour and token, so that an old token is removed only when nothing comes with it any more.

It only adds a table. A migration imports nothing of `webapp`, so that it stays what it was; and it has a working
downgrade.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table."""
    moment = sa.DateTime(timezone=True) if op.get_context().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "callback_token_requests",
        sa.Column("hour", moment, nullable=False, comment="Beginning of the hour, UTC"),
        sa.Column(
            "token_ending",
            sa.Text(),
            nullable=False,
            comment="The last four characters of the token: the token itself stands in no row",
        ),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="Number of requests with the token in the hour"),
        sa.Column("last_at", moment, nullable=False, comment="When the last of them came, UTC"),
        sa.PrimaryKeyConstraint("hour", "token_ending", name="pk_callback_token_requests"),
        comment="One row for each hour and each token with which callbacks came in it",
    )


def downgrade() -> None:
    """Drop it, and with it the counts."""
    op.drop_table("callback_token_requests")
