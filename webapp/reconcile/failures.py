"""Counts failed look-ups by their code, and names the first calls of each code and what failed last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.esms.lookup import LookupAnswer

NAMED_FAILURES = 20
"""This many calls are named for each code."""


@dataclass(slots=True)
class Failures:
    """The failed look-ups so far."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)
    """What failed last, in words, by code; where no answer came."""
    _named: dict[str, list[str]] = field(default_factory=dict)

    def note(self, answer: LookupAnswer) -> None:
        """Count one more."""
        code = answer.code
        self.counts[code] += 1
        if answer.problem:
            self.problems[code] = answer.problem
        if self.counts[code] <= NAMED_FAILURES:
            self._named.setdefault(code, []).append(answer.reference_id)

    def named(self, code: str) -> list[str]:
        """The first calls whose look-ups failed with this code."""
        return self._named.get(code, [])
