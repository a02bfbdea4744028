"""What reconcile and audit say about look-ups that failed, were rate-limited, or did not leave; and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webapp.esms import lookup as esms_lookup
from webapp.reconcile.clock import words as clock_words

if TYPE_CHECKING:
    from collections import Counter

    from webapp.reconcile.clock import Clocks
    from webapp.reconcile.failures import Failures

_REASONS = {
    "database": "the database cannot be reached",
    "refused": "eSMS refuses the account",
    "no answer": "eSMS does not answer",
}


def why(ended: str | None) -> str:
    """Why calls were not asked about."""
    return _REASONS.get(str(ended), "the run was interrupted")


def refused(code: str) -> str:
    """That eSMS refuses the account with this code."""
    return f"Error: eSMS refuses the account (code {code}): {esms_lookup.ACCOUNT_REFUSED[code]}."


def no_answer(unanswered: Counter[str], url: str, failures: Failures) -> str:
    """That eSMS does not answer: the codes of the look-ups since its last answer, and the host that was asked."""
    codes = ", ".join(f"{code} {number}" for code, number in unanswered.most_common())
    words = f"Error: eSMS does not answer ({codes}; {urlsplit(url).hostname})"
    if set(unanswered) == {esms_lookup.TLS} and (problem := failures.problems.get(esms_lookup.TLS)):
        return f"{words}. {problem}"
    return f"{words}: it is down, or this machine cannot reach it. Check the network and ESMS_API_URL."


def clocks(off: Clocks) -> list[str]:
    """Which clocks are off."""
    return [clock_words(whose, ahead) for whose, ahead in off.off.items()]


def slowed_down(times: int) -> str:
    """That eSMS wants to be asked more slowly."""
    return (
        f"look-ups rate-limited by eSMS (code 160, HTTP 429 or 503): {times}. The rate was halved, and recovers within "
        "minutes. If this happens often, lower RECONCILE_RATE."
    )


def what_failed(code: str, failures: Failures) -> str:
    """What look-ups with this code failed of, and what to do."""
    return failures.problems.get(code) or {
        esms_lookup.UNREADABLE: "The answer is not one of GetSendStatus: check ESMS_API_URL.",
        esms_lookup.WRONG_REFERENCE: "eSMS answered about another call.",
        esms_lookup.TOO_FAST: "eSMS still rate-limited these look-ups when they were repeated: lower RECONCILE_RATE.",
    }.get(code, "" if code.startswith("http-") else "eSMS's table of error codes says what this means.")
