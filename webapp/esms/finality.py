"""eSMS's numbers for where a call is, and whether a report ends its call: the rule does not know them."""

from __future__ import annotations

SEND_STATUS_WORDS = {
    0: "draft",
    1: "awaiting approval",
    2: "waiting to be sent",
    3: "being sent",
    4: "rejected",
    5: "done",
    6: "deleted",
    7: "sent, result awaited",
}
"""What eSMS's SendStatus means. *documented*: 0, 1, 2, 4, 5, 7; *seen*: 3, 6."""
MEANINGS: dict[str, dict[int, str]] = {
    "sent_result": {0: "failed at the carrier", 1: "succeeded at the carrier"},
    "send_status": SEND_STATUS_WORDS,
}
"""What eSMS's numbers mean, by the name of the value."""
SEND_STATUS_DONE = 5
"""*documented*: SendStatus of a call that is over."""
SEND_STATUS_REJECTED = (4, 6)
"""*documented*: 4 rejected; *seen*: 6 deleted."""


def is_final(*, send_status: int | None, call_status: str | None, sent_result: int | None, undetermined: bool) -> bool:
    """Whether a report with these values is final.

    ``undetermined``: SendSuccess and SendFailed are both said to be 0 (*seen*: eSMS does not say how it ended). A
    report without SendStatus is final if it says a CallStatus or a SentResult (*documented*: the template up to 2024).
    The code 99 of a look-up decides nothing.
    """
    if send_status is None:
        return call_status is not None or sent_result is not None
    return send_status in SEND_STATUS_REJECTED or (send_status == SEND_STATUS_DONE and not undetermined)
