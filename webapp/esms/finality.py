"""Whether a report ends its call: eSMS's numbers for it, which the rule does not know."""

from __future__ import annotations

DONE = 5
"""*documented*: SendStatus of a call that is over."""
REJECTED = (4, 6)
"""*documented*: 4 rejected; *seen*: 6 deleted."""


def is_final(*, send_status: int | None, call_status: str | None, sent_result: int | None, undetermined: bool) -> bool:
    """Whether a report with these values is final.

    ``undetermined``: SendSuccess and SendFailed are both said to be 0 (*seen*: eSMS does not say how it ended). A
    report without SendStatus is final if it says a CallStatus or a SentResult (*documented*: the template up to 2024).
    The code 99 of a look-up decides nothing.
    """
    if send_status is None:
        return call_status is not None or sent_result is not None
    return send_status in REJECTED or (send_status == DONE and not undetermined)
