"""The first tables: a call is the fold of its reports, so both are kept, with what could not be read and every run.

A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def moment() -> sa.types.TypeEngine[Any]:
    """A time: on SQLite text of a fixed width, which sorts as time does."""
    return sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def identifier() -> sa.types.TypeEngine[Any]:
    """A UUID: on SQLite 36 characters."""
    return sa.String(36).with_variant(postgresql.UUID(), "postgresql")


def reference() -> sa.types.TypeEngine[Any]:
    """A call's identity: compared and sorted byte by byte on both databases."""
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create everything."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    now = sa.text("now()" if on_postgresql else "(strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))")
    op.create_table(
        "calls",
        sa.Column(
            "reference_id",
            reference(),
            nullable=False,
            comment="The identity that eSMS gave the call (ReferenceId or SMSID), lower case",
        ),
        sa.Column(
            "call_status",
            sa.Text(),
            comment="How the call ended: ANSWERED, NOANSWERED, or another word of eSMS in capitals (CallStatus). NULL: not said",
        ),
        sa.Column(
            "call_duration", sa.Integer(), comment="Length of the call in whole seconds (CallDuration). NULL: not said"
        ),
        sa.Column(
            "ivr", sa.Text(), comment="The keys that the callee pressed, as text: 0, *, #, 007 (Ivr). NULL: not said"
        ),
        sa.Column(
            "send_status",
            sa.SmallInteger(),
            comment="Where eSMS is with the call: 1 awaiting approval, 2 waiting, 4 rejected, 5 done, 7 sent (SendStatus). NULL: not said",
        ),
        sa.Column(
            "sent_result",
            sa.SmallInteger(),
            comment="Result at the carrier: 0 failed, 1 succeeded (SentResult; of a voice OTP SendSuccess and SendFailed). NULL: not said",
        ),
        sa.Column(
            "price",
            sa.Numeric(14, 4),
            comment="Price of the call in VND (Price; of a voice OTP TotalPrice); only callbacks carry it. NULL: not said",
        ),
        sa.Column(
            "cid",
            sa.Text(),
            comment="The number that the call was made from (CID); only callbacks carry it. NULL: not said",
        ),
        sa.Column(
            "request_id",
            sa.Text(),
            comment="The id that the placing request carried (RequestId), as registered, else as reported. NULL: not known",
        ),
        sa.Column(
            "phone",
            sa.Text(),
            comment="The number called, as registered, else as reported (phonenumber). NULL: not known",
        ),
        sa.Column("campaign", sa.Text(), comment="The campaign, as registered. NULL: none was named"),
        sa.Column(
            "placed_at",
            moment(),
            nullable=False,
            server_default=now,
            comment="When the call was placed, UTC: as registered, else the earlier of registered_at and the first report",
        ),
        sa.Column(
            "registered_at",
            moment(),
            comment="When the call was first registered, UTC. NULL: never, it is known from reports only",
        ),
        sa.Column(
            "registered_fields",
            sa.Text(),
            server_default="phone,placed_at,request_id",
            comment="Which of request_id, phone and placed_at were registered, with commas: they outrank reports. NULL: none",
        ),
        sa.Column("callback_at", moment(), comment="When the first final callback was received, UTC. NULL: none came"),
        sa.Column("settled_at", moment(), comment="When the first final report was received, UTC. NULL: not settled"),
        sa.Column(
            "settled_by", sa.Text(), comment="Source of the first final report: callback or lookup. NULL: not settled"
        ),
        sa.Column(
            "confirmed_at",
            moment(),
            comment="When the newest final lookup was received, UTC. NULL: eSMS was not asked, or did not decide",
        ),
        sa.Column(
            "confirmed_fields",
            sa.Text(),
            comment="Which of call_status, call_duration and ivr a final lookup said, with commas: callbacks cannot replace them. NULL: none",
        ),
        sa.Column("last_reported_at", moment(), comment="When the newest report was received, UTC. NULL: none was"),
        sa.Column(
            "report_count",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Number of reports in status_reports, repeated and stale ones included",
        ),
        sa.Column(
            "conflict",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether a final callback disagreed with the settled call and no final lookup has decided since",
        ),
        sa.Column(
            "next_lookup_at",
            moment(),
            comment="When eSMS is asked about the call again, UTC. NULL: nothing planned; a missing call is due after its grace",
        ),
        sa.Column(
            "lookup_count",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Number of look-ups charged to the call, never reset",
        ),
        sa.Column(
            "lookup_backoff",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="How often the pause between look-ups has doubled; starts anew with each conflict",
        ),
        sa.Column(
            "last_lookup_code",
            sa.Text(),
            comment="How the last look-up ended: eSMS's code, or http-500 and the like, timeout, unreachable, unreadable, wrong-reference. NULL: none yet",
        ),
        sa.Column(
            "claimed_until",
            moment(),
            comment="Until when a reconcile run has the call to itself, UTC. NULL or past: nobody asks about it now",
        ),
        sa.Column("gave_up_at", moment(), comment="When asking eSMS was given up, UTC. NULL: it was not"),
        sa.Column("created_at", moment(), nullable=False, server_default=now, comment="When this row was made, UTC"),
        sa.Column(
            "updated_at", moment(), nullable=False, server_default=now, comment="When this row was last written, UTC"
        ),
        sa.PrimaryKeyConstraint("reference_id", name="pk_calls"),
        comment="One row a call: the fold of its reports, what was registered, the look-ups planned",
    )
    op.create_index(
        "ix_calls_campaign",
        "calls",
        ["campaign", "placed_at", "reference_id"],
        postgresql_where=sa.text("campaign IS NOT NULL"),
        sqlite_where=sa.text("campaign IS NOT NULL"),
    )
    op.create_index(
        "ix_calls_conflict",
        "calls",
        ["next_lookup_at"],
        postgresql_where=sa.text("conflict"),
        sqlite_where=sa.text("conflict = 1"),
    )
    op.create_index(
        "ix_calls_missing",
        "calls",
        ["next_lookup_at", "placed_at"],
        postgresql_where=sa.text("settled_at IS NULL AND gave_up_at IS NULL"),
        sqlite_where=sa.text("settled_at IS NULL AND gave_up_at IS NULL"),
    )
    op.create_index("ix_calls_placed_at", "calls", ["placed_at", "reference_id"])
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
    op.create_table(
        "reconcile_runs",
        sa.Column("id", identifier(), nullable=False, comment="UUIDv7, made at the start"),
        sa.Column("started_at", moment(), nullable=False, comment="When the run started, UTC"),
        sa.Column("finished_at", moment(), comment="When it ended, UTC. NULL: it has not, or died"),
        sa.Column(
            "outcome",
            sa.Text(),
            comment="done, failures, refused, interrupted or died. NULL: under way, or died unseen",
        ),
        sa.Column(
            "checked",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Look-ups charged: the sum of settled, pending, not_found, failed, gave_up",
        ),
        sa.Column(
            "settled",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Look-ups that were final: the call was settled, confirmed or corrected",
        ),
        sa.Column(
            "pending",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Look-ups of calls that eSMS has not finished",
        ),
        sa.Column(
            "not_found",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Look-ups of calls that eSMS does not know yet (codes 104 and 105)",
        ),
        sa.Column(
            "failed",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Look-ups that failed; the calls are asked about again",
        ),
        sa.Column(
            "gave_up",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Look-ups after which the call was given up",
        ),
        sa.Column(
            "host",
            sa.Text(),
            nullable=False,
            server_default="",
            comment="Name of the machine that the run was on; empty: not told",
        ),
        sa.Column(
            "seen_at", moment(), comment="When the run last showed that it lives, UTC. NULL: not since its start"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_reconcile_runs"),
        comment="One row a reconcile run",
    )
    op.create_index("ix_reconcile_runs_started_at", "reconcile_runs", ["started_at"])
    op.create_table(
        "rejected_callbacks",
        sa.Column("id", identifier(), nullable=False, comment="UUIDv7; the id of the report once replayed"),
        sa.Column("first_at", moment(), nullable=False, comment="When it first came, UTC"),
        sa.Column("last_at", moment(), nullable=False, comment="When the same came last, UTC"),
        sa.Column("remote_addr", sa.Text(), comment="Address that it first came from"),
        sa.Column("method", sa.Text(), nullable=False, comment="HTTP method: GET or POST"),
        sa.Column("content_type", sa.Text(), comment="Content-Type of the body. NULL: none was named"),
        sa.Column(
            "payload",
            sa.Text(),
            nullable=False,
            comment="Query and body as they came, as a JSON object; the first 64 KiB",
        ),
        sa.Column("payload_sha256", sa.Text(), nullable=False, comment="SHA-256 of payload, hexadecimal"),
        sa.Column(
            "size",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Size of payload in bytes; together they are bounded",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why it could not be read"),
        sa.Column(
            "count",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("1"),
            comment="How often the same method, payload and reason came",
        ),
        sa.Column("replayed_at", moment(), comment="When it was read after all, UTC. NULL: it was not"),
        sa.PrimaryKeyConstraint("id", name="pk_rejected_callbacks"),
        sa.UniqueConstraint("method", "payload_sha256", "reason", name="uq_rejected_callbacks_same"),
        comment="What reached the callback URL and could not be read as a report",
    )
    op.create_index("ix_rejected_callbacks_room", "rejected_callbacks", ["replayed_at", "first_at", "size"])
    op.create_table(
        "status_reports",
        sa.Column(
            "id",
            identifier(),
            nullable=False,
            comment="UUIDv7, made at the moment of receipt; storing it again does nothing",
        ),
        sa.Column("reference_id", reference(), nullable=False, comment="The call that the report is about; see calls"),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="callback: eSMS told us; lookup: we asked GetSendStatus"
        ),
        sa.Column(
            "received_at",
            moment(),
            nullable=False,
            comment="When the report was received, UTC, by the receiver's clock",
        ),
        sa.Column(
            "effect",
            sa.Text(),
            nullable=False,
            comment="What storing it did then: settled, stale, conflict, corrected, confirmed, enriched, progressed or duplicate",
        ),
        sa.Column("lookup_code", sa.Text(), comment="eSMS's code (CodeResponse). NULL: a callback"),
        sa.Column(
            "call_status",
            sa.Text(),
            comment="How the call ended: ANSWERED, NOANSWERED, or another word of eSMS in capitals (CallStatus). NULL: not said",
        ),
        sa.Column(
            "call_duration", sa.Integer(), comment="Length of the call in whole seconds (CallDuration). NULL: not said"
        ),
        sa.Column(
            "ivr", sa.Text(), comment="The keys that the callee pressed, as text: 0, *, #, 007 (Ivr). NULL: not said"
        ),
        sa.Column(
            "send_status",
            sa.SmallInteger(),
            comment="Where eSMS is with the call: 1 awaiting approval, 2 waiting, 4 rejected, 5 done, 7 sent (SendStatus). NULL: not said",
        ),
        sa.Column(
            "sent_result",
            sa.SmallInteger(),
            comment="Result at the carrier: 0 failed, 1 succeeded (SentResult; of a voice OTP SendSuccess and SendFailed). NULL: not said",
        ),
        sa.Column(
            "price",
            sa.Numeric(14, 4),
            comment="Price of the call in VND (Price; of a voice OTP TotalPrice); only callbacks carry it. NULL: not said",
        ),
        sa.Column(
            "cid",
            sa.Text(),
            comment="The number that the call was made from (CID); only callbacks carry it. NULL: not said",
        ),
        sa.Column(
            "request_id", sa.Text(), comment="The id that the placing request carried (RequestId). NULL: not said"
        ),
        sa.Column("phone", sa.Text(), comment="The number called (phonenumber). NULL: not said"),
        sa.Column(
            "unread",
            sa.Text(),
            comment="Names of the parameters whose values could not be read, with commas. NULL: none",
        ),
        sa.Column(
            "payload",
            sa.Text(),
            nullable=False,
            server_default="{}",
            comment="All names and values as they came, as a JSON object",
        ),
        sa.Column("remote_addr", sa.Text(), comment="Address that the callback came from. NULL: a lookup"),
        sa.PrimaryKeyConstraint("id", name="pk_status_reports"),
        comment="Append-only history: one row for every report, in the order of received_at, then id",
    )
    op.create_index("ix_status_reports_call", "status_reports", ["reference_id", "received_at", "id"])


def downgrade() -> None:
    """Drop everything."""
    op.drop_table("status_reports")
    op.drop_table("rejected_callbacks")
    op.drop_table("reconcile_runs")
    op.drop_table("call_trails")
    op.drop_table("calls")
