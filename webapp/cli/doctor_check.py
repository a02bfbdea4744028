"""A check of `esms-calls doctor`: what was looked at, whether it is well, and what to do if it is not."""

from __future__ import annotations

from typing import Literal, NamedTuple

CheckResult = Literal["ok", "warning", "failed", "skipped"]


class Check(NamedTuple):
    """One check. ``found`` is one line that says what is so; ``remedy`` what to do (empty where nothing is to do)."""

    name: str
    result: CheckResult
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name, "ok", found)


def warning(name: str, found: str, remedy: str) -> Check:
    """It works, and is not as it should be."""
    return Check(name, "warning", found, remedy)


def failed(name: str, found: str, remedy: str) -> Check:
    """It does not work, or will lose something."""
    return Check(name, "failed", found, remedy)


def skipped(name: str, found: str, remedy: str = "") -> Check:
    """It cannot be looked at, or there is nothing to look at."""
    return Check(name, "skipped", found, remedy)


def halves(words: str, otherwise: str = "see docs/operations.md") -> tuple[str, str]:
    """What is wrong, and what to do, out of an error's words: the first sentence and the rest, or by the last colon.

    ``otherwise``: what to do where the words do not say it.
    """
    found, mark, remedy = words.rstrip(".").partition(". ")
    if not mark:
        found, mark, remedy = words.rstrip(".").rpartition(": ")
    return (found, remedy) if mark else (remedy, otherwise)
