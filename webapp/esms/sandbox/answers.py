"""What the sandbox answers to requests: the documented JSON objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webapp.esms.sandbox.calls import PlacedCall

ERRORS = {
    "99": "Number blocked",
    "101": "Authorize Failed",
    "104": "Call not found",
    "105": "Check the SMSID or try later",
    "124": "RequestId was used within 24 hours",
    "131": "Invalid parameter",
    "140": "IP not whitelisted",
    "143": "Account not active or locked",
    "160": "Over the TPS limit",
    "999": "Unexpected error",
}
"""By code. 131 and 999 are *assumed*, the other codes *documented*; so are 101's words, all others are *assumed*."""


def lookup_fields(call: PlacedCall) -> dict[str, Any]:
    """The published success form of GetSendStatus, with the identity in upper case as *seen* there."""
    return {
        "CallDuration": call.call_duration,
        "CallStatus": call.lookup_status,
        "CodeResponse": "100",
        "Ivr": call.ivr or "",
        "ReferenceId": call.reference_id.upper(),
        "SendStatus": call.send_status,
        "SentResult": call.sent_result,
    }


def failure_fields(code: str) -> dict[str, Any]:
    """The published failure form, which has another key for the code; placing answers have it too (*assumed*)."""
    return {"CodeResult": code, "CountRegenerate": 0, "ErrorMessage": ERRORS[code]}
