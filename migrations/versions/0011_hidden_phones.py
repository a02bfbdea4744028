"""An index for phones that are no plain number, and the fingerprint of the key that they are hashed with.

A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make both: the index is empty where all phones are plain numbers."""
    of_others = sa.text("phone_e164 IS NULL AND phone IS NOT NULL")
    op.create_index(
        "ix_calls_hidden_phone",
        "calls",
        ["phone", "placed_at"],
        postgresql_where=of_others,
        sqlite_where=of_others,
    )
    op.create_table(
        "phone_key",
        sa.Column("one", sa.SmallInteger(), nullable=False, autoincrement=False, comment="Always 1: one row"),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="Fingerprint of the key with which phone numbers are hashed; the key is nowhere in the database",
        ),
        sa.Column(
            "since",
            sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql"),
            nullable=False,
            comment="When the first number was to be hashed, UTC",
        ),
        sa.PrimaryKeyConstraint("one", name="pk_phone_key"),
        comment="One row once PHONE_STORAGE=hashed was used: which key the hashes were made with",
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("phone_key")
    op.drop_index("ix_calls_hidden_phone", "calls")
