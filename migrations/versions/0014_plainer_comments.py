"""Comments of columns say who said what, and what each count of a reconcile run counts.

Only PostgreSQL has comments; on SQLite nothing changes. A migration imports nothing of `webapp`, so that it stays what it
was; and it has a working downgrade.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

COMMENTS = {
    "calls.claimed_until": (
        "Until when a reconcile run has the call to itself, UTC. NULL or past: nobody asks about it now",
        "Until when a reconcile run has claimed the call, UTC. NULL or past: no run has",
    ),
    "status_reports.source": (
        "callback: eSMS told us; lookup: we asked GetSendStatus",
        "callback: eSMS called us; lookup: we asked GetSendStatus",
    ),
    "reconcile_runs.host": (
        "Name of the machine that the run was on; empty: not told",
        "Name of the machine that the run was on; empty: not known",
    ),
    "lookup_rate.slowed_at": (
        "When eSMS last said that we ask too fast, UTC; since then the share grows. NULL: never",
        "When eSMS last rate-limited look-ups, UTC; since then the share grows. NULL: never",
    ),
    "report_history.source": (
        "callback: eSMS told us; lookup: we asked",
        "callback: eSMS called us; lookup: we asked",
    ),
    "reconcile_history.checked": (
        "Number of look-ups: checked",
        "Look-ups charged: the sum of settled, pending, not_found, failed and gave_up",
    ),
    "reconcile_history.settled": (
        "Number of look-ups: settled",
        "Look-ups that were final: the call was settled, confirmed or corrected",
    ),
    "reconcile_history.pending": ("Number of look-ups: pending", "Look-ups of calls that eSMS has not finished"),
    "reconcile_history.not_found": (
        "Number of look-ups: not_found",
        "Look-ups of calls that eSMS does not know yet",
    ),
    "reconcile_history.failed": (
        "Number of look-ups: failed",
        "Look-ups that failed; the calls are asked about again",
    ),
    "reconcile_history.gave_up": ("Number of look-ups: gave_up", "Look-ups after which the call was given up"),
}
"""The comment of each column before and after."""


def upgrade() -> None:
    """Write the newer comments."""
    write(1)


def downgrade() -> None:
    """Write the older ones again."""
    write(0)


def write(newer: int) -> None:
    """Write the older or the newer comment of each column."""
    if op.get_context().dialect.name == "postgresql":
        for column, comments in COMMENTS.items():
            text = comments[newer].replace("'", "''")
            op.execute(f"COMMENT ON COLUMN {column} IS '{text}'")
