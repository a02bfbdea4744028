"""The peers' tables: columns and indexes for a receiver without the rule and without reconcile."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID  # noqa: TC003 - SQLAlchemy reads the annotation

from sqlalchemy import BigInteger, DateTime, Float, Index, Numeric, SmallInteger, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What both tables share."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way
        datetime: DateTime(timezone=True),
        Decimal: Numeric(14, 4).with_variant(Float(), "sqlite"),
    }


class Fields:
    """The fields of a callback."""

    call_status: Mapped[str | None]
    call_duration: Mapped[int | None]
    ivr: Mapped[str | None]
    send_status: Mapped[int | None] = mapped_column(SmallInteger)
    sent_result: Mapped[int | None] = mapped_column(SmallInteger)
    price: Mapped[Decimal | None]
    cid: Mapped[str | None]


class Call(Fields, Base):
    """One row a call."""

    __tablename__ = "calls"

    reference_id: Mapped[str] = mapped_column(primary_key=True)
    placed_at: Mapped[datetime] = mapped_column(index=True)
    settled_at: Mapped[datetime | None]
    last_reported_at: Mapped[datetime]
    report_count: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())
    updated_at: Mapped[datetime]


class Report(Fields, Base):
    """Append-only history: one row a callback."""

    __tablename__ = "status_reports"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    reference_id: Mapped[str]
    received_at: Mapped[datetime]
    payload: Mapped[str]
    remote_addr: Mapped[str | None]


Index("ix_status_reports_call", Report.reference_id, Report.received_at)
