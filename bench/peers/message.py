"""The documented callback as the peers read it: names to values. They accept the documented form only."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import uuid_utils.compat

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = ("call_status", "call_duration", "ivr", "send_status", "sent_result", "price", "cid")
"""The fields of a callback, as columns of the peers' tables."""

_FINAL = (4, 5)


def parse(values: Mapping[str, str], remote_addr: str | None) -> dict[str, Any]:
    """One callback as a row; raises KeyError, ArithmeticError or ValueError if it is not in the documented form."""
    send_status = _integer(values.get("SendStatus"))
    received_at = datetime.now(UTC)
    return {
        "id": uuid_utils.compat.uuid7(),
        "reference_id": values["ReferenceId"].strip().lower(),
        "received_at": received_at,
        "settled_at": received_at if send_status in _FINAL else None,
        "call_status": values.get("CallStatus") or None,
        "call_duration": _integer(values.get("CallDuration")),
        "ivr": values.get("Ivr") or None,
        "send_status": send_status,
        "sent_result": _integer(values.get("SentResult")),
        "price": Decimal(price) if (price := values.get("Price")) else None,
        "cid": values.get("CID") or None,
        "payload": json.dumps(dict(values)),
        "remote_addr": remote_addr,
    }


def _integer(text: str | None) -> int | None:
    return int(text) if text else None
