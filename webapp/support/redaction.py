"""Takes secrets out of texts that are logged or printed."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CALLBACK_PATH = "/esms/callback/"
_CALLBACK_TOKEN = re.compile(rf"({_CALLBACK_PATH})[^\s?\"'<]+")
_SHORTEST_IN_LOGS = 4
"""Characters. A shorter key is one of a test, and occurs in words: without it nobody could read the log."""


def longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """In the order in which ``redact`` wants them: one may be a part of another."""
    return tuple(sorted(secrets, key=len, reverse=True))


def redact(text: str, secrets: Iterable[str]) -> str:
    """A text for the log or a terminal, without the secrets and without any callback token in a path."""
    for secret in secrets:
        if len(secret) < _SHORTEST_IN_LOGS:
            continue
        text = text.replace(secret, "***")
        if "%" in text:
            text = url_encoded(secret).sub("***", text)
    return _CALLBACK_TOKEN.sub(r"\1***", text) if _CALLBACK_PATH in text else text


@cache
def url_encoded(secret: str) -> re.Pattern[str]:
    """The secret with any of its characters percent-encoded, any number of times."""
    return re.compile("".join(f"(?:{_percent_encoded(letter)}|{re.escape(letter)})" for letter in secret))


def _percent_encoded(letter: str) -> str:
    digits = (f"{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
    either_case = (re.sub("[a-f]", lambda digit: f"[{digit[0]}{digit[0].upper()}]", two) for two in digits)
    return "".join(f"%(?:25)*{two}" for two in either_case)
