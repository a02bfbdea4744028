"""What the sandbox answers to look-ups: the documented JSON objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from webapp.esms.sandbox.calls import SEND_STATUS_DONE

if TYPE_CHECKING:
    from webapp.esms.sandbox.calls import PlacedCall


def lookup_fields(call: PlacedCall) -> dict[str, Any]:
    """The published success form of GetSendStatus, with the identity in upper case as *seen* there."""
    return {
        "CallDuration": call.call_duration,
        "CallStatus": call.lookup_status,
        "CodeResponse": "99" if call.blocked and call.send_status == SEND_STATUS_DONE else "100",
        "Ivr": call.ivr or "",
        "ReferenceId": call.reference_id.upper(),
        "SendStatus": call.send_status,
        "SentResult": call.sent_result,
    }


def message_lookup_fields(call: PlacedCall) -> dict[str, Any]:
    """The published success form of the message API's GetSendStatus, which says the price of a voice OTP."""
    over = call.send_status == SEND_STATUS_DONE
    return {
        "CodeResponse": "100",
        "SMSID": call.reference_id,
        "SendFailed": int(over and not call.sent_result),
        "SendStatus": call.send_status,
        "SendSuccess": int(over and bool(call.sent_result)),
        "TotalPrice": float(call.price),
        "TotalReceiver": 1,
        "TotalSent": 1,
    }
