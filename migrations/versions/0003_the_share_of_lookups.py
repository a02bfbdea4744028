"""An index of the times at which calls were settled: the last day's share of look-ups is asked for at every reconcile.

Only of settled calls, and nothing besides the time: entries are added at the end, and receiving does not feel it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index; while it is made (seconds for millions of calls), callbacks wait in the spool."""
    settled = sa.text("settled_at IS NOT NULL")
    op.create_index("ix_calls_settled_at", "calls", ["settled_at"], postgresql_where=settled, sqlite_where=settled)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_calls_settled_at", "calls")
