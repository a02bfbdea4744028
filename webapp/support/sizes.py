"""Sizes for people."""

from __future__ import annotations

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def size_in_words(number: int) -> str:
    """``512 KiB``, ``12 MiB`` or ``1.5 GiB`` for a number of bytes."""
    if number < _MIB:
        return f"{-(-number // _KIB)} KiB"
    return f"{number >> 20} MiB" if number < _GIB else f"{number / _GIB:.1f} GiB"
