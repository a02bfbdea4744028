"""Calls say in one word how they ended, of which kind they are, and how eSMS spells their id.

Rows keep what they say until `esms-calls replay` has folded their histories by the rule of this version. On PostgreSQL
the generated column writes the table of calls anew (a minute for 10 million); callbacks wait in the spool meanwhile.
A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

OUTCOME = (
    "CASE WHEN settled_at IS NULL AND gave_up_at IS NOT NULL THEN 'given_up' "
    "WHEN settled_at IS NULL THEN 'missing' "
    "WHEN call_status = 'ANSWERED' THEN 'answered' "
    "WHEN call_status = 'NOANSWERED' THEN 'unanswered' "
    "WHEN call_status IS NOT NULL THEN 'other' "
    "WHEN send_status IN (4, 6) THEN 'rejected' "
    "WHEN sent_result = 0 THEN 'unanswered' "
    "WHEN sent_result = 1 THEN 'delivered' "
    "ELSE 'unknown' END"
)

INDEXES = (
    ("ix_calls_phone", "calls", ["phone_e164", "placed_at"], "phone_e164 IS NOT NULL"),
    ("ix_calls_request_id", "calls", ["request_id"], "request_id IS NOT NULL"),
    ("ix_status_reports_callbacks", "status_reports", ["received_at"], "source = 'callback'"),
    ("ix_status_reports_unread", "status_reports", ["received_at"], "unread IS NOT NULL"),
)
MISSING = "settled_at IS NULL AND gave_up_at IS NULL"
DUE = {
    "ix_calls_missing": MISSING,
    "ix_calls_unasked": f"{MISSING} AND lookup_count = 0",
}
"""The indexes of what is due; from here on each is split into one of registered calls, and one of the others."""
NOW = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"}


def moment() -> sa.types.TypeEngine[Any]:
    """A time: on SQLite text of a fixed width, which sorts as time does."""
    return sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def columns() -> list[tuple[str, sa.Column[Any]]]:
    """Table and column, in their order."""
    return [
        (
            "calls",
            sa.Column(
                "esms_id",
                sa.Text(),
                comment="The identity as eSMS spells it: as registered, else as first reported. NULL: not known",
            ),
        ),
        (
            "calls",
            sa.Column(
                "kind",
                sa.Text(),
                comment="voice or otp: as registered, else by the form of the first report. NULL: not known yet",
            ),
        ),
        (
            "calls",
            sa.Column(
                "price_conflict",
                sa.Boolean(),
                nullable=False,
                server_default=sa.text("false"),
                comment="Whether two final callbacks that agree with the outcome say different prices, and no lookup says one",
            ),
        ),
        (
            "calls",
            sa.Column(
                "phone_e164",
                sa.Text(),
                comment="The phone in the international form +84901888484. NULL: phone is not known, or no number",
            ),
        ),
        (
            "calls",
            sa.Column(
                "dismissed_at",
                moment(),
                comment="When a person dismissed the call, UTC. NULL: not dismissed, or something new has happened since",
            ),
        ),
        (
            "calls",
            sa.Column(
                "outcome",
                sa.Text(),
                sa.Computed(OUTCOME, persisted=op.get_context().dialect.name == "postgresql"),
                comment="One word for how the call ended: answered, unanswered, other, rejected, delivered, unknown, given_up or missing",
            ),
        ),
        (
            "rejected_callbacks",
            sa.Column(
                "dismissed_at",
                moment(),
                comment="When a person dismissed it, UTC. NULL: not dismissed, or the same came again since",
            ),
        ),
        (
            "reconcile_runs",
            sa.Column(
                "answered_at",
                moment(),
                comment="When eSMS last gave any answer in the run, an error code included, UTC. NULL: never",
            ),
        ),
    ]


def index(name: str, table: str, of: list[str], condition: str) -> None:
    """An index of the rows for which the condition holds."""
    op.create_index(name, table, of, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))


def split(condition: str, *, registered: bool) -> str:
    """The condition for one half of the calls; ``registered_at`` stands before ``lookup_count``, as in the models."""
    half = f"{MISSING} AND registered_at IS {'NOT ' if registered else ''}NULL"
    return condition.replace(MISSING, half)


def add(table: str, column: sa.Column[Any]) -> None:
    """Add a column. On SQLite its comment is kept in the text of the table, where Alembic would leave it out."""
    if op.get_context().dialect.name == "sqlite":
        words = sa.schema.CreateColumn(column).compile(dialect=op.get_context().dialect)
        op.execute(f"ALTER TABLE {table} ADD COLUMN {words}")
    else:
        op.add_column(table, column)


def upgrade() -> None:
    """Add the columns, their indexes and two tables."""
    for table, column in columns():
        add(table, column)
    for one in INDEXES:
        index(*one)
    for name, condition in DUE.items():
        op.drop_index(name, "calls")
        index(name, "calls", ["next_lookup_at", "placed_at"], split(condition, registered=True))
        index(f"{name}_unregistered", "calls", ["next_lookup_at", "placed_at"], split(condition, registered=False))
    op.create_table(
        "wrong_token_requests",
        sa.Column("hour", moment(), nullable=False, comment="Beginning of the hour, UTC"),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="Number of these requests in the hour"),
        sa.Column("last_at", moment(), nullable=False, comment="When the last of them came, UTC"),
        sa.PrimaryKeyConstraint("hour", name="pk_wrong_token_requests"),
        comment="One row for each hour in which requests to the callback URL had a wrong token",
    )
    op.create_table(
        "due_replay",
        sa.Column("one", sa.SmallInteger(), nullable=False, autoincrement=False, comment="Always 1: one row"),
        sa.Column("since", moment(), nullable=False, comment="When the migration to the newer rule ran, UTC"),
        sa.PrimaryKeyConstraint("one", name="pk_due_replay"),
        comment="One row while `esms-calls replay` is due, which folds all calls by a newer rule",
    )
    now = NOW[op.get_context().dialect.name]
    some = "WHERE EXISTS (SELECT 1 FROM status_reports)"
    op.execute(f"INSERT INTO due_replay (one, since) SELECT 1, {now} {some}")


def downgrade() -> None:
    """Drop them."""
    op.drop_table("due_replay")
    op.drop_table("wrong_token_requests")
    for name, condition in DUE.items():
        op.drop_index(f"{name}_unregistered", "calls")
        op.drop_index(name, "calls")
        index(name, "calls", ["next_lookup_at", "placed_at"], condition)
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table)
    for table, column in reversed(columns()):
        op.drop_column(table, column.name)
