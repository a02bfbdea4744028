"""Draws a random sample of calls, and says what a sample proves about all of them. Pure."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIDENCE = 0.95

Sample = int | Fraction
"""A number of calls, or a share of them."""

_BISECTIONS = 60


def size_of(sample: Sample, population: int) -> int:
    """How many calls a sample has: a share is rounded up; never more than there are."""
    return min(population, math.ceil(sample * population) if isinstance(sample, Fraction) else sample)


def draw(reference_ids: Iterable[str], size: int, seed: int) -> list[str]:
    """``size`` of the calls, each as likely as any other; the same seed draws the same. Needs memory for these only.

    They come in random order, so the first of them are a sample as well.
    """
    key = str(seed).encode()
    return heapq.nsmallest(
        size, reference_ids, key=lambda name: blake2b(name.encode(), key=key, digest_size=16).digest()
    )


def upper_bound(wrong: int, checked: int) -> float:
    """The share of wrong calls, from 0 to 1, that is exceeded with a probability of 5 % at most.

    ``checked`` is the size of a random sample, ``wrong`` how many of it are wrong. Clopper and Pearson's bound,
    one-sided: were the share larger, so few wrong ones would be rarer than that. Where none is wrong it is
    1 - 0.05 ** (1 / checked).
    """
    if wrong >= checked:
        return 1.0
    low, high = wrong / checked, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _probability_of_at_most(wrong, checked, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _probability_of_at_most(wrong: int, checked: int, share: float) -> float:
    """The binomial distribution, for a share above ``wrong / checked``: there its terms fall toward 0 wrong ones."""
    if share >= 1:
        return 0.0
    ways = math.lgamma(checked + 1) - math.lgamma(wrong + 1) - math.lgamma(checked - wrong + 1)
    term = math.exp(ways + (wrong * math.log(share) if wrong else 0.0) + (checked - wrong) * math.log1p(-share))
    probability = term
    for number in range(wrong, 0, -1):
        term *= number / (checked - number + 1) * (1 - share) / share
        if probability + term == probability:
            break
        probability += term
    return probability
