"""Sorts the reasons of rejected callbacks into a few classes: label values of the metrics."""

from __future__ import annotations

from webapp.support import metrics

_CLASS_WORDS = {
    "no-identity": "is missing",
    "bad-identity": "visible ASCII characters",
    "two-identities": "is given twice",
    "too-large": "is over ",
    "too-many-fields": "has more than ",
    "too-deep": "is nested too deeply",
    "broken-json": "is broken JSON",
    "no-json-object": "must be one JSON object",
    "broken-form": "is a broken multipart form",
    "not-whole": " whole",
    "database": "The database refuses ",
}
"""A part of the reasons of each class; rows of older versions have the same words."""
REASONS = (*_CLASS_WORDS, "other")
"""All classes."""


def reason_class(reason: str) -> str:
    """The class of a reason, one of ``REASONS``."""
    return next((name for name, words in _CLASS_WORDS.items() if words in reason), "other")


def count_rejected(reason: str) -> None:
    """Count one callback that is rejected."""
    metrics.REJECTIONS.labels(reason_class(reason)).inc()
