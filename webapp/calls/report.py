"""What eSMS says about one call at one moment: the value that callbacks and look-ups both become."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

Source = Literal["callback", "lookup"]
Effect = Literal["settled", "stale", "conflict", "corrected", "confirmed", "enriched", "progressed", "duplicate"]
EFFECTS: tuple[Effect, ...] = (
    "settled",
    "stale",
    "conflict",
    "corrected",
    "confirmed",
    "enriched",
    "progressed",
    "duplicate",
)


@dataclass(frozen=True, kw_only=True)
class Said:
    """The fields that eSMS may say of a call; None: not said. ``call_duration`` is in seconds, ``price`` in VND."""

    call_status: str | None = None
    call_duration: int | None = None
    ivr: str | None = None
    send_status: int | None = None
    sent_result: int | None = None
    price: Decimal | None = None
    cid: str | None = None
    request_id: str | None = None
    phone: str | None = None


FIELDS = tuple(field.name for field in fields(Said))
"""The names of what a report may say of a call."""
OUTCOME_FIELDS = ("call_status", "call_duration", "ivr", "sent_result")
"""The fields for which a final lookup beats a callback, and over which callbacks can be in conflict."""
FIRST_SAID = ("price", "cid")
"""The fields that eSMS cannot confirm for a voice call, so that the first report that agrees counts."""
Kind = Literal["voice", "otp"]
KINDS: tuple[Kind, ...] = ("voice", "otp")


@dataclass(frozen=True, kw_only=True)
class StatusReport(Said):
    """What eSMS says about one call at one moment.

    ``final``: the call is over, by eSMS's own word for it. ``kind`` follows from the form of the report, ``esms_id`` is
    the id as eSMS spelled it (None: the report does not repeat it).
    """

    id: UUID
    reference_id: str
    source: Source
    received_at: datetime
    final: bool
    kind: Kind | None = None
    esms_id: str | None = None
    lookup_code: str | None = None
    unread: str | None = None
    payload: str = "{}"
    remote_addr: str | None = None

    @property
    def order(self) -> tuple[datetime, UUID]:
        """The place of this report among its call's reports."""
        return self.received_at, self.id

    def said(self) -> dict[str, Any]:
        """The fields that it says, by name."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
