"""Whether a report ends its call: eSMS's numbers for it, which the rule does not know."""

from __future__ import annotations

FINAL_SEND_STATUSES = (4, 5)
"""*documented*: 5 done, 4 rejected."""
NUMBER_BLOCKED = "99"
"""*documented*: this code of a look-up is final for the call, whatever else it says."""


def is_final(*, send_status: int | None, call_status: str | None, lookup_code: str | None) -> bool:
    """Whether a report with these values is final.

    *assumed*: a report without SendStatus is final if it says a CallStatus.
    """
    if lookup_code == NUMBER_BLOCKED or send_status in FINAL_SEND_STATUSES:
        return True
    return send_status is None and call_status is not None
