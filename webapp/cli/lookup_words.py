"""What reconcile and audit say about look-ups that failed, were too fast, or could not leave; and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.esms import lookup as esms_lookup

if TYPE_CHECKING:
    from collections import Counter

_REASONS = {
    "database": "the database went away",
    "refused": "eSMS refuses the account",
    "down": "eSMS gives no sign of life",
    "too fast": "eSMS keeps saying that we ask too fast",
}


def why(ended: str | None) -> str:
    """Why calls were not asked about."""
    return _REASONS.get(str(ended), "the run was interrupted")


def refused(code: str) -> str:
    """That eSMS refuses the account, by this code of its."""
    return f"Error: eSMS refuses the account (code {code}): {esms_lookup.ACCOUNT_REFUSED[code]}."


def down(unheard: Counter[str]) -> str:
    """That eSMS is down, by how the last look-ups failed."""
    how = ", ".join(f"{code} {number} times" for code, number in unheard.most_common())
    return f"Error: eSMS gives no sign of life ({how}): it is down, or the network or ESMS_API_URL is wrong."


def slowed(times: int) -> str:
    """That eSMS wanted to be asked more slowly."""
    return (
        f"eSMS said {times} times that we ask too fast (code 160, HTTP 429 or 503): the pace was halved "
        "for some minutes. If that happens often, lower RECONCILE_RATE."
    )


def what_failed(code: str) -> str:
    """What a person can do about a look-up that failed so."""
    return {
        "timeout": "No whole answer came within ESMS_TIMEOUT.",
        "unreachable": "No connection, or it broke: check the network and ESMS_API_URL.",
        "unreadable": "The answer is none of GetSendStatus: check ESMS_API_URL.",
        "wrong-reference": "eSMS answered about another call.",
    }.get(code, "" if code.startswith("http-") else "eSMS's table of error codes tells what that means.")
