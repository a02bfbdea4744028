"""Callback tokens are taken out of what strangers send, in whatever encoding; nothing else changes."""

from __future__ import annotations

import time
from base64 import b64encode, encodebytes, urlsafe_b64encode
from quopri import encodestring
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.support.token_redaction import NO_TOKENS, TokenRedactor

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "callback-token_of.the~tests-9f3c"
URL = f"https://calls.example.vn/esms/callback/{TOKEN}?ReferenceId="
REDACTOR = TokenRedactor([TOKEN, "another-token-71ab"])


def in_json(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def in_percent(text: str) -> str:
    return "".join(f"%{ord(letter):02X}" for letter in text)


def in_base64(text: str) -> str:
    return b64encode(text.encode()).decode()


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "JSON": lambda text: in_json(text).encode(),
    "JSON, upper case": lambda text: in_json(text).upper().replace("\\U", "\\u").encode(),
    "JSON in a JSON text": lambda text: in_json(text).replace("\\", "\\\\").encode(),
    "percent": lambda text: in_percent(text).encode(),
    "percent twice": lambda text: in_percent(in_percent(text)).encode(),
    "percent in JSON": lambda text: in_json(in_percent(text)).encode(),
    "JSON in percent": lambda text: in_percent(in_json(text)).encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: text.encode("utf-16-be"),
    "JSON in UTF-16": lambda text: in_json(text).encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "quoted-printable": lambda text: encodestring(text.encode() * 3, quotetabs=True),
    "quoted-printable, every letter": lambda text: "".join(f"={ord(letter):02X}" for letter in text).encode(),
    "base64": lambda text: in_base64(text).encode(),
    "base64 for URLs": lambda text: urlsafe_b64encode(text.encode()),
    "base64 in lines": lambda text: encodebytes(text.encode() * 5),
    "base64 in lines of a JSON text": lambda text: encodebytes(text.encode() * 5).replace(b"\n", b"\\r\\n"),
    "base64 of UTF-16": lambda text: b64encode(text.encode("utf-16")),
    "base64 in percent": lambda text: in_percent(in_base64(text)).encode(),
    "base64 in UTF-16": lambda text: in_base64(text).encode("utf-16"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("before", range(6))
def test_a_token_is_taken_out_of_every_encoding_and_only_it(encoding: str, before: int) -> None:
    encode = ENCODINGS[encoding]
    content = b"a=" + encode("x" * before + URL) + b"&b=1"

    redacted = REDACTOR.redact_decoded(content)

    assert b"***" in redacted
    assert redacted.startswith(b"a=" + encode("x" * before + "https://")[:8])
    assert redacted.endswith(b"&b=1")
    kept = redacted.replace(b"***", b"")
    assert encode(TOKEN) not in kept
    # Nothing of the token is left but what shares a base64 digit with its neighbours.
    assert len(kept) <= len(content) - len(TOKEN) + 3
    assert REDACTOR.redact_decoded(redacted) == redacted


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_another_text_of_the_same_form_stays(encoding: str) -> None:
    content = ENCODINGS[encoding](URL.replace(TOKEN, TOKEN[::-1]))

    assert REDACTOR.redact_decoded(content) == content
    assert NO_TOKENS.redact_decoded(ENCODINGS[encoding](URL)) == ENCODINGS[encoding](URL)


@given(st.binary(), st.binary(), st.integers(0, 3), st.sets(st.integers(0, len(TOKEN) - 1)))
def test_any_bytes_around_a_token_stay_and_any_of_its_letters_may_be_percent_encoded(
    before: bytes, behind: bytes, times: int, places: set[int]
) -> None:
    said = "".join(
        f"%{'25' * times}{ord(letter):02x}" if place in places else letter for place, letter in enumerate(TOKEN)
    )

    redacted = REDACTOR.redact_bytes(before + said.encode() + behind)

    assert TOKEN not in unquote(unquote(unquote(unquote(unquote(redacted.decode("latin-1"))))))
    assert redacted.startswith(before[:-6])
    assert redacted.endswith(behind[6:])


@given(st.binary())
def test_bytes_without_a_token_stay_as_they_are(content: bytes) -> None:
    assert REDACTOR.redact_decoded(content) == content
    assert REDACTOR.redact_bytes(content) == content


@pytest.mark.parametrize("part", [b"\\", b"%25", b"%", b"\0", b"=41", b"\\u0041", b"\\u005c", b" ", b"a", b"=\r\n"])
def test_a_hostile_body_of_64_kib_takes_no_more_than_a_quarter_of_a_second(part: bytes) -> None:
    began = time.process_time()
    REDACTOR.redact_decoded((part * 65536)[:65536])

    assert time.process_time() - began < 0.25
