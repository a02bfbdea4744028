"""Phone numbers become one form, however they are written; what is no number becomes none."""

from __future__ import annotations

import pytest

from webapp.calls.phone import PhoneStorage, e164, is_hash

SPELLINGS = [
    "0901888484",
    "0901 888 484",
    "0901.888.484",
    "0901-888-484",
    "(090) 188 8484",
    " 0901888484 ",
    "+84901888484",
    "+84 901 888 484",
    "+84 (0)901 888 484",
    "+840901888484",
    "0084901888484",
    "00 84 901 888 484",
    "84901888484",
    "84 901 888 484",
    "901888484",
    "\uff10\uff19\uff10\uff11\uff18\uff18\uff18\uff14\uff18\uff14",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_of_a_number_is_the_same_number(text: str) -> None:
    assert e164(text) == "+84901888484"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("02871002454", "+842871002454"),
        ("+1 650-253-0000", "+16502530000"),
        ("0016502530000", "+16502530000"),
        ("19001234", "+8419001234"),
    ],
)
def test_other_numbers_are_numbers(text: str, expected: str) -> None:
    assert e164(text) == expected


@pytest.mark.parametrize("text", [None, "", " ", "113", "no number", "****", "8f14e45fceea", "0901888484" * 5, "+"])
def test_anything_else_is_no_number(text: str | None) -> None:
    assert e164(text) is None


def test_a_hash_is_the_same_however_the_number_is_written_and_another_with_another_key() -> None:
    storage = PhoneStorage("hashed", "a-key-of-16-chars")
    hashes = {storage.stored(text) for text in ("0901888484", "+84901888484", "84901888484", "0901 888 484 ")}
    (one,) = hashes
    assert one
    assert is_hash(one)
    assert storage.stored(one) == one
    assert e164(one) is None
    assert PhoneStorage("hashed", "another-key-of-16").stored("0901888484") != one


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("call 0901888484 now", "call *** now"),
        ("+84 901 888 484,0901.888.484", "***,***"),
        ("+4915112345678", "***"),
        ("066107ee-6ec4-4283-b595-aa74977c65c5", "066107ee-6ec4-4283-b595-aa74977c65c5"),
        ("450.0000", "450.0000"),
        ("0084901888484", "***"),
        ("+84 (0)901 888 484", "***"),
        ("x0901888484", "x0901888484"),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_numbers_in_a_text_are_hidden_and_ids_and_prices_are_not(text: str, hidden: str) -> None:
    assert PhoneStorage("none").in_text(text) == hidden
    assert PhoneStorage("plain").in_text(text) == text
