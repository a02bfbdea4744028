"""Finds the known name that a mistyped one most likely stands for."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def likely(name: str, known: Iterable[str], *, similarity: float = 0.75) -> str | None:
    """The known name that is most similar to this one; None if none is similar enough (1: the same)."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=similarity)), None)


def do_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint at that name, with a blank before it; empty if there is none."""
    found = likely(name, known)
    return f" (do you mean {found}?)" if found else ""
