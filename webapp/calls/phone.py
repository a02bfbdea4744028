"""Phone numbers in one form, however they are written."""

from __future__ import annotations

from functools import lru_cache

import phonenumbers

_REGION = "VN"
"""Numbers without a country code are Vietnamese."""
_LONGEST = 40


@lru_cache(maxsize=4096)
def e164(text: str | None) -> str | None:
    """``0901 888 484``, ``84901888484`` and ``+84901888484`` as ``+84901888484``; None if it is no number."""
    if not text or len(text) > _LONGEST:
        return None
    try:
        number = phonenumbers.parse(text, _REGION)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
