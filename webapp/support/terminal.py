"""Makes text from outside fit for a terminal and a log: no character moves a cursor, hides or reverses others."""

from __future__ import annotations

_LAST_BYTE, _LAST_BMP = 0xFF, 0xFFFF


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with every character that cannot be seen shown as ``\x1b``; those in ``keep`` stay.

    Lone surrogates (bytes that are no text) are shown likewise.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in keep else _in_hexadecimal(ord(sign)) for sign in text)


def printable_json(text: str) -> str:
    r"""JSON that means the same, with such characters as ``\u001b``; its line breaks stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else _json_escaped(sign) for sign in text)


def _in_hexadecimal(number: int) -> str:
    if number <= _LAST_BYTE:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= _LAST_BMP else f"\\U{number:08x}"


def _json_escaped(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
