"""Takes secrets out of texts: out of what is logged and printed, and out of what strangers send before it is stored."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CALLBACK_PATH = "/esms/callback/"
_CALLBACK_TOKEN = re.compile(rf"({_CALLBACK_PATH})[^\s?\"'<]+")
_SHORTEST_IN_LOGS = 4
"""Characters. A shorter key is one of a test, and occurs in words: without it nobody could read the log."""
_SHORTEST = 8
"""Characters. Shorter secrets occur in phone numbers and ReferenceIds by chance: taking them out would lose calls."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """A text for the log or a terminal, without the secrets and without any callback token in a path."""
    for secret in secrets:
        if len(secret) < _SHORTEST_IN_LOGS:
            continue
        text = text.replace(secret, "***")
        if "%" in text:
            text = _url_encoded(secret).sub("***", text)
    return _CALLBACK_TOKEN.sub(r"\1***", text) if _CALLBACK_PATH in text else text


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that takes the secrets out of a text before it is stored: as they are, in JSON, and URL-encoded.

    Every callback passes through it, so it is quick for texts without a secret.
    """
    long = {secret for secret in secrets if len(secret) >= _SHORTEST}
    spellings = sorted(long | {json.dumps(secret, ensure_ascii=False)[1:-1] for secret in long}, key=len, reverse=True)

    def redact_stored(text: str) -> str:
        for spelling in spellings:
            if spelling in text:
                text = text.replace(spelling, "***")
        if "%" in text and ("%25" in text or _contains_any(_url_decoded(text), spellings)):
            for spelling in spellings:
                text = _url_encoded(spelling).sub("***", text)
        return text

    return redact_stored


@cache
def _url_encoded(secret: str) -> re.Pattern[str]:
    """The secret with any of its characters percent-encoded, any number of times."""
    return re.compile("".join(f"(?:{_percent_encoded(letter)}|{re.escape(letter)})" for letter in secret))


def _percent_encoded(letter: str) -> str:
    digits = (f"{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
    either_case = (re.sub("[a-f]", lambda digit: f"[{digit[0]}{digit[0].upper()}]", two) for two in digits)
    return "".join(f"%(?:25)*{two}" for two in either_case)


def _url_decoded(text: str) -> str:
    return unquote_to_bytes(text.encode(errors="replace")).decode(errors="replace")


def _contains_any(text: str, spellings: Iterable[str]) -> bool:
    return any(spelling in text for spelling in spellings)
