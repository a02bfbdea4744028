"""Counts failed look-ups by their code, and names the first calls of each code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

NAMED_FAILURES = 20
"""This many calls are named for each code."""


@dataclass(slots=True)
class Failures:
    """The failed look-ups so far."""

    counts: Counter[str] = field(default_factory=Counter)
    _named: dict[str, list[str]] = field(default_factory=dict)

    def note(self, reference_id: str, code: str) -> None:
        """Count one more."""
        self.counts[code] += 1
        if self.counts[code] <= NAMED_FAILURES:
            self._named.setdefault(code, []).append(reference_id)

    def named(self, code: str) -> list[str]:
        """The first calls whose look-ups failed with this code."""
        return self._named.get(code, [])
