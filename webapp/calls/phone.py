"""Phone numbers in one form, however they are written, and what is stored of them."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import phonenumbers

PhoneMode = Literal["plain", "hashed", "none"]

_REGION = "VN"
"""Numbers without a country code are Vietnamese."""
_LONGEST_PHONE = 40


@lru_cache(maxsize=4096)
def e164(text: str | None) -> str | None:
    """``0901 888 484``, ``84901888484`` and ``+84901888484`` as ``+84901888484``; None if it is no number."""
    if not text or len(text) > _LONGEST_PHONE:
        return None
    try:
        number = phonenumbers.parse(text, _REGION)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


_HASH_PREFIX = "hmac:"
_HASH = re.compile(rf"{_HASH_PREFIX}[0-9a-f]{{64}}")
_NUMBER = re.compile(
    # Vietnamese, or with a country code; digits may stand in groups.
    r"(?<![0-9A-Za-z])(?:\+?84|0)(?:[ .()-]{0,2}[0-9]){8,10}(?![0-9A-Za-z])"
    r"|(?<![0-9A-Za-z])(?:\+|00)[1-9](?:[ .()-]{0,2}[0-9]){7,14}(?![0-9A-Za-z])"
)
HIDDEN = "***"
"""Stands where a number was, in a text."""


def is_hash(text: str) -> bool:
    """Whether a stored phone is a keyed hash."""
    return _HASH.fullmatch(text) is not None


def numbers_in(text: str) -> set[str]:
    """The phone numbers in a text, in their one form."""
    return {number for found in _NUMBER.findall(text) if (number := e164(found))}


@dataclass(frozen=True, slots=True)
class PhoneStorage:
    """What is stored of phone numbers: themselves, a keyed hash (HMAC-SHA256 of the one form), or nothing.

    Hiding is done once: what is hidden already stays as it is. ``key`` may be there in every mode, to find what was
    hashed before.
    """

    mode: PhoneMode = "plain"
    key: str | None = field(default=None, repr=False)

    @property
    def is_plain(self) -> bool:
        """Whether numbers are stored as they come."""
        return self.mode == "plain"

    def hashed(self, text: str) -> str | None:
        """The hash of a number, the same however it is written; None without a key."""
        if self.key is None:
            return None
        number = e164(text) or text.strip()
        return (
            _HASH_PREFIX + hmac.digest(self.key.encode(), number.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()
        )

    def stored(self, text: str | None) -> str | None:
        """What is stored of a number, or of a text that stands in its place."""
        if text is None or self.mode == "plain":
            return text
        if self.mode == "none":
            return None
        return text if is_hash(text) else self.hashed(text)

    def in_text(self, text: str) -> str:
        """A text with its phone numbers hidden."""
        if self.mode == "plain":
            return text
        return _NUMBER.sub(lambda found: self.stored(found[0]) or HIDDEN if e164(found[0]) else found[0], text)


PLAIN = PhoneStorage()
