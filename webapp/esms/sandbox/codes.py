"""eSMS's codes, and the answers that consist of one."""

from __future__ import annotations

from typing import Any

ERRORS = {
    "99": "Unknown error, try again later",
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


def failure_fields(code: str) -> dict[str, Any]:
    """The published failure form, which has another key for the code; placing answers have it too (*assumed*)."""
    return {"CodeResult": code, "CountRegenerate": 0, "ErrorMessage": ERRORS[code]}


def message_failure_fields(code: str, reference_id: str) -> dict[str, Any]:
    """A failure of the message API: CodeResponse and the SMSID are *documented*."""
    return {"CodeResponse": code, "ErrorMessage": ERRORS[code], "SMSID": reference_id}
