"""The tables and their columns, each with a comment that says what it holds."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    FetchedValue,
    Float,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from webapp.storage.types import REFERENCE, Identifier, Moment, Money, Names


class Base(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


CALL_STATUS_COMMENT = (
    "How the call ended: ANSWERED, NOANSWERED, or another word of eSMS in capitals (CallStatus). NULL: not said"
)
CALL_DURATION_COMMENT = "Length of the call in whole seconds (CallDuration). NULL: not said"
IVR_COMMENT = "The keys that the callee pressed, as text: 0, *, #, 007 (Ivr). NULL: not said"
SEND_STATUS_COMMENT = "Where eSMS is with the call: 0 draft, 1 awaiting approval, 2 waiting, 3 sending, 4 rejected, 5 done, 6 deleted, 7 sent (SendStatus). NULL: not said"
SENT_RESULT_COMMENT = "Result at the carrier: 0 failed, 1 succeeded (SentResult; of a voice OTP SendSuccess and SendFailed). NULL: not said"
PRICE_COMMENT = "Price of the call in VND (Price; of a voice OTP TotalPrice); of a voice call only callbacks carry it. NULL: not said"
CID_COMMENT = "The number that the call was made from (CID); only callbacks carry it. NULL: not said"
REQUEST_ID_COMMENT = (
    "The id that the placing request carried (RequestId), as registered, else as reported. NULL: not known"
)
PHONE_COMMENT = "The number called, as registered, else as reported (phonenumber). NULL: not known"


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
"""One closed word for how a call ended; SendStatus 4 and 6 are eSMS's words for rejected and deleted calls."""


class CallRow(Base):
    """One row a call: the fold of its reports, with what was registered and the look-ups that are planned."""

    __tablename__ = "calls"
    __table_args__ = (
        {"comment": "One row a call: the fold of its reports, what was registered, the look-ups planned"},
    )

    reference_id: Mapped[str] = mapped_column(
        REFERENCE, primary_key=True, comment="The identity that eSMS gave the call (ReferenceId or SMSID), lower case"
    )
    call_status: Mapped[str | None] = mapped_column(Text, comment=CALL_STATUS_COMMENT)
    call_duration: Mapped[int | None] = mapped_column(Integer, comment=CALL_DURATION_COMMENT)
    ivr: Mapped[str | None] = mapped_column(Text, comment=IVR_COMMENT)
    send_status: Mapped[int | None] = mapped_column(SmallInteger, comment=SEND_STATUS_COMMENT)
    sent_result: Mapped[int | None] = mapped_column(SmallInteger, comment=SENT_RESULT_COMMENT)
    price: Mapped[Decimal | None] = mapped_column(Money, comment=PRICE_COMMENT)
    cid: Mapped[str | None] = mapped_column(Text, comment=CID_COMMENT)
    request_id: Mapped[str | None] = mapped_column(Text, comment=REQUEST_ID_COMMENT)
    phone: Mapped[str | None] = mapped_column(Text, comment=PHONE_COMMENT)
    campaign: Mapped[str | None] = mapped_column(Text, comment="The campaign, as registered. NULL: none was named")
    placed_at: Mapped[datetime] = mapped_column(
        Moment,
        server_default=FetchedValue(),
        comment="When the call was placed, UTC: as registered, else the earlier of registered_at and the first report",
    )
    registered_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When the call was first registered, UTC. NULL: never, it is known from reports only"
    )
    registered_fields: Mapped[frozenset[str]] = mapped_column(
        Names,
        nullable=True,
        server_default="phone,placed_at,request_id",
        comment="Which of request_id, phone, placed_at, kind and esms_id were registered, with commas: they outrank reports. NULL: none",
    )
    callback_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When the first final callback was received, UTC. NULL: none came"
    )
    settled_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When the first final report was received, UTC. NULL: not settled"
    )
    settled_by: Mapped[str | None] = mapped_column(
        Text, comment="Source of the first final report: callback or lookup. NULL: not settled"
    )
    confirmed_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When the newest final lookup was received, UTC. NULL: eSMS was not asked, or did not decide"
    )
    confirmed_fields: Mapped[frozenset[str]] = mapped_column(
        Names,
        nullable=True,
        comment="Which of call_status, call_duration, ivr and sent_result a final lookup said, with commas: callbacks cannot replace them. NULL: none",
    )
    last_reported_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When the newest report was received, UTC. NULL: none was"
    )
    report_count: Mapped[int] = mapped_column(
        Integer,
        server_default=text("0"),
        comment="Number of reports in status_reports, repeated and stale ones included",
    )
    conflict: Mapped[bool] = mapped_column(
        Boolean,
        server_default=text("false"),
        comment="Whether a final callback disagreed with the settled call and no final lookup has decided since",
    )
    next_lookup_at: Mapped[datetime | None] = mapped_column(
        Moment,
        comment="When eSMS is asked about the call again, UTC. NULL: nothing planned; a missing call is due after its grace",
    )
    lookup_count: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="Number of look-ups charged to the call, never reset"
    )
    lookup_backoff: Mapped[int] = mapped_column(
        Integer,
        server_default=text("0"),
        comment="How often the pause between look-ups has doubled; starts anew with each conflict",
    )
    last_lookup_code: Mapped[str | None] = mapped_column(
        Text,
        comment="How the last look-up ended: eSMS's code, or http-500 and the like, timeout, unreachable, tls, unreadable, wrong-reference. NULL: none yet",
    )
    claimed_until: Mapped[datetime | None] = mapped_column(
        Moment, comment="Until when a reconcile run has claimed the call, UTC. NULL or past: no run has"
    )
    gave_up_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When asking eSMS was given up, UTC. NULL: it was not"
    )
    created_at: Mapped[datetime] = mapped_column(
        Moment, server_default=FetchedValue(), comment="When this row was made, UTC"
    )
    updated_at: Mapped[datetime] = mapped_column(
        Moment, server_default=FetchedValue(), comment="When this row was last written, UTC"
    )
    esms_id: Mapped[str | None] = mapped_column(
        Text, comment="The identity as eSMS spells it: as registered, else as first reported. NULL: not known"
    )
    kind: Mapped[str | None] = mapped_column(
        Text, comment="voice or otp: as registered, else by the form of the first report. NULL: not known yet"
    )
    price_conflict: Mapped[bool] = mapped_column(
        Boolean,
        server_default=text("false"),
        comment="Whether two final callbacks that agree with the outcome say different prices, and no lookup says one",
    )
    phone_e164: Mapped[str | None] = mapped_column(
        Text, comment="The phone in the international form +84901888484. NULL: phone is not known, or no number"
    )
    dismissed_at: Mapped[datetime | None] = mapped_column(
        Moment,
        comment="When a person dismissed the call, UTC. NULL: not dismissed, or something new has happened since",
    )
    outcome: Mapped[str] = mapped_column(
        Text,
        Computed(OUTCOME, persisted=True),
        nullable=True,
        comment="One word for how the call ended: answered, unanswered, other, rejected, delivered, unknown, given_up or missing",
    )


_MISSING = "settled_at IS NULL AND gave_up_at IS NULL AND registered_at IS NOT NULL"
_UNREGISTERED = "settled_at IS NULL AND gave_up_at IS NULL AND registered_at IS NULL"
_UNASKED = " AND lookup_count = 0"

Index("ix_calls_placed_at", CallRow.placed_at, CallRow.reference_id)
# Their order on PostgreSQL is that of bytes, whatever the database's collation: so they find beginnings, too.
Index(
    "ix_calls_phone",
    CallRow.phone_e164,
    CallRow.placed_at,
    postgresql_ops={"phone_e164": "text_pattern_ops"},
    postgresql_where=text("phone_e164 IS NOT NULL"),
    sqlite_where=text("phone_e164 IS NOT NULL"),
)
# What is no plain number: hashes, and texts that are none. Where all are, it is empty and costs nothing.
Index(
    "ix_calls_hidden_phone",
    CallRow.phone,
    CallRow.placed_at,
    postgresql_where=text("phone_e164 IS NULL AND phone IS NOT NULL"),
    sqlite_where=text("phone_e164 IS NULL AND phone IS NOT NULL"),
)
Index(
    "ix_calls_request_id",
    CallRow.request_id,
    postgresql_ops={"request_id": "text_pattern_ops"},
    postgresql_where=text("request_id IS NOT NULL"),
    sqlite_where=text("request_id IS NOT NULL"),
)
Index(
    "ix_calls_campaign",
    CallRow.campaign,
    CallRow.placed_at,
    CallRow.reference_id,
    postgresql_where=text("campaign IS NOT NULL"),
    sqlite_where=text("campaign IS NOT NULL"),
)
# Each call is in the indexes of one half alone: callbacks about calls that nobody registered (forged ones, say) make
# those of the registered ones no longer.
for _name, _condition in (
    ("ix_calls_missing", _MISSING),
    ("ix_calls_missing_unregistered", _UNREGISTERED),
    ("ix_calls_unasked", _MISSING + _UNASKED),
    ("ix_calls_unasked_unregistered", _UNREGISTERED + _UNASKED),
):
    Index(
        _name,
        CallRow.next_lookup_at,
        CallRow.placed_at,
        postgresql_where=text(_condition),
        sqlite_where=text(_condition),
    )
# Lists of calls that are few, newest placed first: a search through all calls would take seconds.
for _name, _on_postgresql, _on_sqlite in (
    ("ix_calls_without_result", *["settled_at IS NULL AND gave_up_at IS NULL"] * 2),
    ("ix_calls_given_up", *["gave_up_at IS NOT NULL"] * 2),
    ("ix_calls_in_conflict", "conflict", "conflict = 1"),
    ("ix_calls_in_price_conflict", "price_conflict", "price_conflict = 1"),
):
    Index(
        _name,
        CallRow.placed_at,
        CallRow.reference_id,
        postgresql_where=text(_on_postgresql),
        sqlite_where=text(_on_sqlite),
    )
Index(
    "ix_calls_conflict",
    CallRow.next_lookup_at,
    postgresql_where=text("conflict"),
    sqlite_where=text("conflict = 1"),
)
# The day's share of look-ups is read from it (50 ms with 10 million calls), which costs receiving too little to be
# measured: times only grow, so new entries go to the end of the index. settled_by would double it; a registration pays nothing.
Index(
    "ix_calls_settled_at",
    CallRow.settled_at,
    postgresql_where=text("settled_at IS NOT NULL"),
    sqlite_where=text("settled_at IS NOT NULL"),
)


_CALLBACK = text("source = 'callback'")
_UNREAD = text("unread IS NOT NULL")
_CONFLICT = text("effect = 'conflict'")
_ANSWERED = text("answered_at IS NOT NULL")


class ReportRow(Base):
    """Append-only history: one row for every report, in the order of (received_at, id)."""

    __tablename__ = "status_reports"
    __table_args__ = (
        # Every unique key holds reference_id, by which a database can be spread over machines; see docs/scale.md.
        PrimaryKeyConstraint("reference_id", "id"),
        Index("ix_status_reports_callbacks", "received_at", postgresql_where=_CALLBACK, sqlite_where=_CALLBACK),
        Index("ix_status_reports_unread", "received_at", postgresql_where=_UNREAD, sqlite_where=_UNREAD),
        Index("ix_status_reports_conflicts", "reference_id", postgresql_where=_CONFLICT, sqlite_where=_CONFLICT),
        {"comment": "Append-only history: one row for every report, in the order of received_at, then id"},
    )

    id: Mapped[UUID] = mapped_column(
        Identifier, comment="UUIDv7, made at the moment of receipt; storing it again does nothing"
    )
    reference_id: Mapped[str] = mapped_column(REFERENCE, comment="The call that the report is about; see calls")
    source: Mapped[str] = mapped_column(Text, comment="callback: eSMS called us; lookup: we asked GetSendStatus")
    received_at: Mapped[datetime] = mapped_column(
        Moment, comment="When the report was received, UTC, by the receiver's clock"
    )
    effect: Mapped[str] = mapped_column(
        Text,
        comment="What storing it did then: settled, stale, conflict, corrected, confirmed, enriched, progressed or duplicate",
    )
    lookup_code: Mapped[str | None] = mapped_column(Text, comment="eSMS's code (CodeResponse). NULL: a callback")
    call_status: Mapped[str | None] = mapped_column(Text, comment=CALL_STATUS_COMMENT)
    call_duration: Mapped[int | None] = mapped_column(Integer, comment=CALL_DURATION_COMMENT)
    ivr: Mapped[str | None] = mapped_column(Text, comment=IVR_COMMENT)
    send_status: Mapped[int | None] = mapped_column(SmallInteger, comment=SEND_STATUS_COMMENT)
    sent_result: Mapped[int | None] = mapped_column(SmallInteger, comment=SENT_RESULT_COMMENT)
    price: Mapped[Decimal | None] = mapped_column(Money, comment=PRICE_COMMENT)
    cid: Mapped[str | None] = mapped_column(Text, comment=CID_COMMENT)
    request_id: Mapped[str | None] = mapped_column(
        Text, comment="The id that the placing request carried (RequestId). NULL: not said"
    )
    phone: Mapped[str | None] = mapped_column(Text, comment="The number called (phonenumber). NULL: not said")
    unread: Mapped[str | None] = mapped_column(
        Text, comment="Names of the parameters whose values could not be read, with commas. NULL: none"
    )
    payload: Mapped[str] = mapped_column(
        Text, server_default="{}", comment="All names and values as they came, as a JSON object"
    )
    remote_addr: Mapped[str | None] = mapped_column(Text, comment="Address that the callback came from. NULL: a lookup")


class RejectedRow(Base):
    """What reached the callback URL and could not be read as a report."""

    __tablename__ = "rejected_callbacks"
    __table_args__ = (
        UniqueConstraint("method", "payload_sha256", "reason", name="uq_rejected_callbacks_same"),
        Index("ix_rejected_callbacks_room", "replayed_at", "first_at", "size"),
        Index("ix_rejected_callbacks_reasons", "replayed_at", "dismissed_at", "reason"),
        {"comment": "What reached the callback URL and could not be read as a report"},
    )

    id: Mapped[UUID] = mapped_column(Identifier, primary_key=True, comment="UUIDv7; the id of the report once replayed")
    first_at: Mapped[datetime] = mapped_column(Moment, comment="When it first came, UTC")
    last_at: Mapped[datetime] = mapped_column(Moment, comment="When the same came last, UTC")
    remote_addr: Mapped[str | None] = mapped_column(Text, comment="Address that it first came from")
    method: Mapped[str] = mapped_column(Text, comment="HTTP method: GET or POST")
    content_type: Mapped[str | None] = mapped_column(Text, comment="Content-Type of the body. NULL: none was named")
    payload: Mapped[str] = mapped_column(
        Text, comment="Query and body as they came, as a JSON object; the first 64 KiB"
    )
    payload_sha256: Mapped[str] = mapped_column(Text, comment="SHA-256 of payload, hexadecimal")
    size: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="Size of payload in bytes; together they are bounded"
    )
    reason: Mapped[str] = mapped_column(Text, comment="Why it could not be read")
    count: Mapped[int] = mapped_column(
        BigInteger, server_default=text("1"), comment="How often the same method, payload and reason came"
    )
    replayed_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When it was read after all, UTC. NULL: it was not"
    )
    dismissed_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When a person dismissed it, UTC. NULL: not dismissed, or the same came again since"
    )


class RunRow(Base):
    """One row a reconcile run."""

    __tablename__ = "reconcile_runs"
    __table_args__ = (
        Index("ix_reconcile_runs_started_at", "started_at"),
        Index("ix_reconcile_runs_outcome", "outcome", "started_at"),
        Index("ix_reconcile_runs_answered_at", "answered_at", postgresql_where=_ANSWERED, sqlite_where=_ANSWERED),
        {"comment": "One row a reconcile run"},
    )

    id: Mapped[UUID] = mapped_column(Identifier, primary_key=True, comment="UUIDv7, made at the start")
    started_at: Mapped[datetime] = mapped_column(Moment, comment="When the run started, UTC")
    finished_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When it ended, UTC. NULL: it has not, or died"
    )
    outcome: Mapped[str | None] = mapped_column(
        Text, comment="done, failures, refused, interrupted or died. NULL: under way, or died unseen"
    )
    checked: Mapped[int] = mapped_column(
        Integer,
        server_default=text("0"),
        comment="Look-ups charged: the sum of settled, pending, not_found, failed, gave_up",
    )
    settled: Mapped[int] = mapped_column(
        Integer,
        server_default=text("0"),
        comment="Look-ups that were final: the call was settled, confirmed or corrected",
    )
    pending: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="Look-ups of calls that eSMS has not finished"
    )
    not_found: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="Look-ups of calls that eSMS does not know yet (codes 104 and 105)"
    )
    failed: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="Look-ups that failed; the calls are asked about again"
    )
    gave_up: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="Look-ups after which the call was given up"
    )
    host: Mapped[str] = mapped_column(
        Text, server_default="", comment="Name of the machine that the run was on; empty: not known"
    )
    seen_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When the run last showed that it lives, UTC. NULL: not since its start"
    )
    answered_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When eSMS last gave any answer in the run, an error code included, UTC. NULL: never"
    )


class LookupRateRow(Base):
    """The rate at which all reconcile runs together ask eSMS: one row."""

    __tablename__ = "lookup_rate"
    __table_args__ = ({"comment": "One row: the rate at which all reconcile runs together may ask eSMS"},)

    one: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, comment="Always 1: one row")
    next_slot_at: Mapped[datetime] = mapped_column(Moment, comment="When the next look-up may be sent, UTC")
    share: Mapped[float] = mapped_column(
        Float, comment="The share of RECONCILE_RATE, above 0 to 1, to which eSMS slowed the look-ups at slowed_at"
    )
    slowed_at: Mapped[datetime | None] = mapped_column(
        Moment, comment="When eSMS last rate-limited look-ups, UTC; since then the share grows. NULL: never"
    )


class LookupLatencyRow(Base):
    """One row for each code and class of seconds in which look-ups ended."""

    __tablename__ = "lookup_latencies"
    __table_args__ = (
        {"comment": "Look-ups of all reconcile runs and audits by code and by how long they took, for /metrics"},
    )

    code: Mapped[str] = mapped_column(
        Text,
        primary_key=True,
        comment="How the look-ups ended: eSMS's code, timeout and the like, or other for a rare code",
    )
    edge_ms: Mapped[int] = mapped_column(
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="Upper edge of the class, in milliseconds, inclusive; 2147483647: longer than all other edges",
    )
    lookups: Mapped[int] = mapped_column(BigInteger, comment="Number of look-ups of the class")
    seconds: Mapped[float] = mapped_column(Float, comment="Seconds that they took together")


class WrongTokenRow(Base):
    """One row for each hour in which requests to the callback URL had a wrong token."""

    __tablename__ = "wrong_token_requests"
    __table_args__ = ({"comment": "One row for each hour in which requests to the callback URL had a wrong token"},)

    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True, comment="Beginning of the hour, UTC")
    count: Mapped[int] = mapped_column(BigInteger, comment="Number of these requests in the hour")
    last_at: Mapped[datetime] = mapped_column(Moment, comment="When the last of them came, UTC")


class NotAllowedRow(Base):
    """One row for each hour with requests that had a right token and came from an address that is not allowed."""

    __tablename__ = "not_allowed_requests"
    __table_args__ = (
        {"comment": "One row for each hour with requests from an address not in CALLBACK_ALLOWED_IPS, token right"},
    )

    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True, comment="Beginning of the hour, UTC")
    count: Mapped[int] = mapped_column(BigInteger, comment="Number of these requests in the hour")
    last_at: Mapped[datetime] = mapped_column(Moment, comment="When the last of them came, UTC")


class CallbackTokenRow(Base):
    """One row for each hour and each token with which callbacks came in it."""

    __tablename__ = "callback_token_requests"
    __table_args__ = ({"comment": "One row for each hour and each token with which callbacks came in it"},)

    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True, comment="Beginning of the hour, UTC")
    token_ending: Mapped[str] = mapped_column(
        Text, primary_key=True, comment="The last four characters of the token: the token itself stands in no row"
    )
    count: Mapped[int] = mapped_column(BigInteger, comment="Number of requests with the token in the hour")
    last_at: Mapped[datetime] = mapped_column(Moment, comment="When the last of them came, UTC")


class DueReplayRow(Base):
    """One row while `esms-calls replay` is due: a newer rule has not been applied to all calls yet."""

    __tablename__ = "due_replay"
    __table_args__ = ({"comment": "One row while `esms-calls replay` is due, which folds all calls by a newer rule"},)

    one: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, comment="Always 1: one row")
    since: Mapped[datetime] = mapped_column(Moment, comment="When the migration to the newer rule ran, UTC")


class PhoneKeyRow(Base):
    """One row once numbers were hashed: which key that was done with."""

    __tablename__ = "phone_key"
    __table_args__ = ({"comment": "One row once PHONE_STORAGE=hashed was used: which key the hashes were made with"},)

    one: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, comment="Always 1: one row")
    fingerprint: Mapped[str] = mapped_column(
        Text, comment="Fingerprint of the key with which phone numbers are hashed; the key is nowhere in the database"
    )
    since: Mapped[datetime] = mapped_column(Moment, comment="When the first number was to be hashed, UTC")


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
"""What figures sum up of some calls, by the name of the column."""


def _measure_columns() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, comment=comment) for name, comment in MEASURES.items()]


call_rollups = Table(
    "call_rollups",
    Base.metadata,
    Column("scope", Text, nullable=False, comment="all: every call; campaign: those of one; none: those without one"),
    Column("campaign", Text, comment="The campaign. NULL: scope is not campaign"),
    Column("facet", Text, nullable=False, comment="What label says: outcome, hour, key, talk or delay"),
    Column(
        "local_day", Date, nullable=False, comment="The day on which the calls were placed, by the clocks of TIME_ZONE"
    ),
    Column(
        "label",
        Text,
        nullable=False,
        comment="The outcome; the hour, 00 to 23; the key, none or several; the upper edge in seconds of a class of talk time or callback delay",
    ),
    *_measure_columns(),
    # One to replace the rows of a day, one to read a year's of one facet: 3 to 9 ms, where the first alone takes 45.
    Index("ix_call_rollups_day", "local_day"),
    Index("ix_call_rollups_facet", "scope", "facet", "campaign", "local_day"),
    comment="Figures of whole local days, made anew from calls in the background: read by views, page and report",
)
kept_rollups = Table(
    "kept_rollups",
    Base.metadata,
    Column("campaign", Text, comment="The campaign of the purged calls. NULL: they had none"),
    Column("facet", Text, nullable=False, comment="What label says: outcome, hour, key, talk or delay"),
    Column(
        "local_day",
        Date,
        nullable=False,
        comment="The day on which the calls were placed, by the clocks of TIME_ZONE when they were purged",
    ),
    Column("label", Text, nullable=False, comment="As in call_rollups"),
    *_measure_columns(),
    Index("uq_kept_rollups", "local_day", "facet", "label", text("coalesce(campaign, '')"), unique=True),
    comment="Totals of calls that `esms-calls purge --keep-totals` removed: call_rollups counts them too",
)
rollup_marks = Table(
    "rollup_marks",
    Base.metadata,
    # AUTOINCREMENT: the number of a deleted mark must not come again, and BIGINT would be no key of its own.
    Column(
        "id",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
        comment="Number of the mark, never used again",
    ),
    Column("hour", Moment, nullable=False, comment="Beginning of the hour in which the changed calls were placed, UTC"),
    Column("marked_at", Moment, nullable=False, comment="When they changed, UTC"),
    comment="One row for each hour of which calls have changed since its figures were made",
    sqlite_autoincrement=True,
)
"""No index, lock or upsert: each transaction that changes calls appends to it."""
rollup_version = Table(
    "rollup_version",
    Base.metadata,
    Column("one", SmallInteger, primary_key=True, autoincrement=False, comment="Always 1: one row"),
    Column("version", BigInteger, nullable=False, comment="Number of times that figures were replaced"),
    comment="One row: counts how often figures were replaced, so that of two who do it at once one gives up",
)
schema_compatibility = Table(
    "schema_compatibility",
    Base.metadata,
    Column("one", SmallInteger, primary_key=True, autoincrement=False, comment="Always 1: one row"),
    Column("migration", Text, nullable=False, comment="The migration of the database when this row was written"),
    Column(
        "usable_from",
        Text,
        nullable=False,
        comment="The oldest migration whose program can use these tables: all later ones have only added to them",
    ),
    comment="One row: which older versions of esms-calls can use the database beside the newest",
)


calls = Base.metadata.tables["calls"]
status_reports = Base.metadata.tables["status_reports"]
rejected_callbacks = Base.metadata.tables["rejected_callbacks"]
reconcile_runs = Base.metadata.tables["reconcile_runs"]
lookup_rate = Base.metadata.tables["lookup_rate"]
lookup_latencies = Base.metadata.tables["lookup_latencies"]
wrong_token_requests = Base.metadata.tables["wrong_token_requests"]
not_allowed_requests = Base.metadata.tables["not_allowed_requests"]
callback_token_requests = Base.metadata.tables["callback_token_requests"]
due_replay = Base.metadata.tables["due_replay"]
phone_key = Base.metadata.tables["phone_key"]
