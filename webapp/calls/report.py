"""The rule: what one more status report, registration or look-up makes of a call.

Pure functions over frozen values. Knows no clock, no database, no Flask, and none of eSMS's spellings.
"""

from __future__ import annotations

from dataclasses import dataclass
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

FIELDS = ("call_status", "call_duration", "ivr", "send_status", "sent_result", "price", "cid", "request_id", "phone")
"""What a report may say of a call."""
CONFIRMABLE = ("call_status", "call_duration", "ivr")
"""The fields for which a final lookup beats a callback, and over which callbacks can be in conflict."""

FINAL_SEND_STATUSES = (4, 5)
"""*documented*: 5 done, 4 rejected."""
NUMBER_BLOCKED = "99"
"""*documented*: this code of a lookup is final for the call, whatever else it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What eSMS says about one call at one moment. A field that is None was not said."""

    id: UUID
    reference_id: str
    source: Source
    received_at: datetime
    call_status: str | None = None
    call_duration: int | None = None
    ivr: str | None = None
    send_status: int | None = None
    sent_result: int | None = None
    price: Decimal | None = None
    cid: str | None = None
    request_id: str | None = None
    phone: str | None = None
    lookup_code: str | None = None
    unread: str | None = None
    payload: str = "{}"
    remote_addr: str | None = None

    @property
    def final(self) -> bool:
        """Whether this report settles its call."""
        if self.lookup_code == NUMBER_BLOCKED or self.send_status in FINAL_SEND_STATUSES:
            return True
        return self.send_status is None and self.call_status is not None

    @property
    def order(self) -> tuple[datetime, UUID]:
        """Where this report stands among its call's reports."""
        return self.received_at, self.id

    def said(self) -> dict[str, Any]:
        """The fields that it says, by name."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
