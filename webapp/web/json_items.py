"""Reads a JSON list item by item: reading 8 MiB at once would keep all other requests of the process waiting."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BLANKS = " \t\n\r"
"""What JSON allows between values."""
_BLANKS = re.compile(f"[{BLANKS}]*")
_LONGEST_ITEM = 64 * 1024
"""Characters. A longer one would keep other requests waiting while it is decoded."""
_decoder = json.JSONDecoder()


def json_items(text: str) -> Iterator[Any]:
    """The items of a JSON list, or any other JSON value alone, each of at most 64 KiB.

    Raises ValueError or RecursionError.
    """
    place = _after_blanks(text, 0)
    if not text.startswith("[", place):
        item, place = _decode(text, place)
        yield item
    else:
        place = _after_blanks(text, place + 1)
        more = not text.startswith("]", place)
        while more:
            item, place = _decode(text, place)
            yield item
            place = _after_blanks(text, place)
            more = text.startswith(",", place)
            if more:
                place = _after_blanks(text, place + 1)
        if not text.startswith("]", place):
            raise ValueError("the list does not end")
        place += 1
    if _after_blanks(text, place) < len(text):
        raise ValueError("something follows the value")


def _decode(text: str, place: int) -> tuple[Any, int]:
    item, length = _decoder.raw_decode(text[place : place + _LONGEST_ITEM])
    return item, place + length


def _after_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place
