"""Takes the callback tokens out of what strangers send, before it is stored."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from webapp.support.redaction import url_encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MOST_ENCODINGS = 8
"""How many encodings of one text, each within the other, are undone."""
_ENCODED = re.compile(
    r"%(?:25)*(?P<percent>[0-7][0-9A-Fa-f])|\\\\{0,7}u00(?P<json>[0-7][0-9A-Fa-f])|=(?P<quoted>[0-7][0-9A-Fa-f])"
    r"|=\r?\n|\0"
)
"""What stands for another ASCII character (URL, JSON, quoted-printable), or for none: soft line ends, and UTF-16's.

Each alternative begins with a single character, so that texts without these are searched quickly.
"""
_BLANK = re.compile(r"(?:\s|\\{1,8}[rnt])+")


class TokenRedactor:
    """Takes the callback tokens out of texts, and nothing else.

    If keys were taken out too, the answer to a callback that repeats another but for a guessed key would tell whether
    the guess is right.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        """``tokens`` have URL-safe ASCII characters alone."""
        self._tokens: list[str] = []
        self._in_base64: list[str] = []
        self.add(tokens)

    def add(self, tokens: Iterable[str]) -> None:
        """Take out these, too."""
        self._tokens = sorted({*self._tokens, *tokens}, key=len, reverse=True)
        self._in_base64 = [form for token in self._tokens for form in _base64_forms(token)]

    def __call__(self, text: str) -> str:
        """The text without the tokens, as they are and URL-encoded. Every callback passes here, so it is quick."""
        for token in self._tokens:
            if token in text:
                text = text.replace(token, "***")
        if "%" in text and ("%25" in text or _contains_any(_url_decoded(text), self._tokens)):
            for token in self._tokens:
                text = url_encoded(token).sub("***", text)
        return text

    def redact_bytes(self, content: bytes) -> bytes:
        """The same for bytes."""
        return _of_bytes(content, self)

    def redact_decoded(self, content: bytes) -> bytes:
        """Bytes without the tokens in any encoding: of URLs, JSON, UTF-16, quoted-printable, base64, or several."""
        return _of_bytes(content, self._redact_decoded)

    def _redact_decoded(self, text: str) -> str:
        text = self(text)
        if not self._is_within(text):
            return text
        end = len(text)
        for begin, behind in sorted(self._spans(text), reverse=True):
            if begin < end:
                text = f"{text[:begin]}***{text[min(behind, end) :]}"
                end = begin
        return text

    def _is_within(self, text: str) -> bool:
        """Whether any encoded token is. Hardly a text holds one, so this is quick: it notes no places."""
        for _ in range(_MOST_ENCODINGS):
            if _contains_any(text, self._tokens) or _contains_any(_in_one_alphabet(_unbroken(text)), self._in_base64):
                return True
            decoded = _ENCODED.sub(_decoded, text)
            if len(decoded) == len(text):
                return False
            text = decoded
        return False

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where encoded tokens begin and end."""
        decoded, places = text, list(range(len(text) + 1))
        for _ in range(_MOST_ENCODINGS):
            yield from _found(self._tokens, decoded, places)
            unbroken, unbroken_places = _replaced(_BLANK, decoded, places)
            yield from _found(self._in_base64, _in_one_alphabet(unbroken), unbroken_places)
            if not _ENCODED.search(decoded):
                return
            decoded, places = _replaced(_ENCODED, decoded, places)


NO_TOKENS = TokenRedactor()


def _found(wanted: Iterable[str], text: str, places: list[int]) -> Iterator[tuple[int, int]]:
    for one in wanted:
        at = text.find(one)
        while at >= 0:
            yield places[at], places[at + len(one)]
            at = text.find(one, at + len(one))


def _replaced(pattern: re.Pattern[str], text: str, places: list[int]) -> tuple[str, list[int]]:
    """The text decoded, and for each of its characters the place in the original."""
    texts: list[str] = []
    kept: list[int] = []
    end = 0
    for found in pattern.finditer(text):
        begin = found.start()
        texts.append(text[end:begin])
        kept += places[end:begin]
        if found.lastgroup:
            texts.append(_decoded(found))
            kept.append(places[begin])
        end = found.end()
    return "".join([*texts, text[end:]]), kept + places[end:]


def _decoded(found: re.Match[str]) -> str:
    return chr(int(found[found.lastgroup], 16)) if found.lastgroup else ""


def _unbroken(text: str) -> str:
    """The text without what _BLANK matches."""
    if "\\" in text:
        text = _BLANK.sub("", text)
    return "".join(text.split())


def _in_one_alphabet(text: str) -> str:
    """Base64 for URLs as the usual base64."""
    return text.replace("-", "+").replace("_", "/")


def _base64_forms(token: str) -> list[str]:
    """What base64 makes of a token, in UTF-8 and UTF-16, at each of three places; without both ends, which vary."""
    forms = []
    for content in (token.encode(), token.encode("utf-16-le"), token.encode("utf-16-be")):
        for before in range(3):
            whole = b64encode(bytes(before) + content).decode()
            forms.append(whole[(before * 8 + 5) // 6 : (before + len(content)) * 8 // 6])
    return forms


def _of_bytes(content: bytes, redact: Callable[[str], str]) -> bytes:
    if not content:
        return content
    text = content.decode("utf-8", "surrogateescape")
    redacted = redact(text)
    return content if redacted == text else redacted.encode("utf-8", "surrogateescape")


def _url_decoded(text: str) -> str:
    return unquote_to_bytes(text.encode(errors="replace")).decode(errors="replace")


def _contains_any(text: str, wanted: Iterable[str]) -> bool:
    return any(one in text for one in wanted)
