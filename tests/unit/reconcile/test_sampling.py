"""Random samples of calls, and the bound for the share of wrong ones that such a sample proves."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest

from webapp.reconcile.sampling import draw, size_of, upper_bound


@pytest.mark.parametrize(
    ("sample", "population", "size"),
    [
        (10, 100, 10),
        (10, 9, 9),
        (10, 0, 0),
        (Fraction(1, 100), 100, 1),
        (Fraction(1, 100), 101, 2),
        (Fraction(1, 100), 1, 1),
        (Fraction(7, 100), 100, 7),  # 0.07 * 100 is more than 7 in floating point
        (Fraction(1), 12345, 12345),
        (Fraction(1, 100), 0, 0),
    ],
)
def test_a_sample_is_a_number_of_calls_or_a_share_of_them_rounded_up(
    sample: int | Fraction, population: int, size: int
) -> None:
    assert size_of(sample, population) == size


def test_the_same_seed_draws_the_same_calls_in_whatever_order_they_are_read() -> None:
    names = [f"call-{number}" for number in range(1000)]

    drawn = draw(names, 100, seed=5)

    assert drawn == draw(reversed(names), 100, seed=5) == draw(iter(names), 100, seed=5)
    assert len(set(drawn)) == 100
    assert set(drawn) <= set(names)
    assert drawn[:10] == draw(names, 10, seed=5)
    assert set(drawn) != set(draw(names, 100, seed=6))
    assert sorted(draw(names, 2000, seed=5)) == sorted(names)


def test_every_call_is_as_likely_to_be_drawn_as_any_other() -> None:
    """By a chi-squared test over the calls, whose names are as alike as they get; the seeds are fixed."""
    calls, size, draws = 200, 20, 3000
    names = [f"call-{number:03}" for number in range(calls)]

    drawn = Counter(name for seed in range(draws) for name in draw(names, size, seed))

    expected = draws * size / calls
    # Drawn without replacement, the counts vary by 1 - size / calls less than those of free throws.
    chi_squared = sum((drawn[name] - expected) ** 2 / expected for name in names) / (1 - size / calls)
    degrees = calls - 1
    assert abs(chi_squared - degrees) < 3 * math.sqrt(2 * degrees)


def test_which_two_calls_are_drawn_together_is_left_to_chance() -> None:
    names = [f"call-{number}" for number in range(10)]

    together = Counter(tuple(sorted(draw(names, 2, seed))) for seed in range(4500))

    assert len(together) == 45
    chi_squared = sum((number - 100) ** 2 / 100 for number in together.values())
    assert abs(chi_squared - 44) < 3 * math.sqrt(2 * 44)


# The bound


@pytest.mark.parametrize("checked", [1, 2, 10, 59, 100, 3000, 10**6, 10**7])
def test_with_no_finding_the_bound_has_a_closed_form(checked: int) -> None:
    assert upper_bound(0, checked) == pytest.approx(-math.expm1(math.log(0.05) / checked), rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "checked", "bound"),
    [
        # Of published tables of one-sided 95 % Clopper-Pearson limits.
        (0, 59, 0.0495),
        (1, 10, 0.3942),
        (2, 20, 0.2826),
        (5, 10, 0.7776),
        (9, 10, 0.9949),
        (1, 93, 0.0500),
    ],
)
def test_the_bound_is_clopper_and_pearsons(wrong: int, checked: int, bound: float) -> None:
    assert upper_bound(wrong, checked) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize(("wrong", "checked"), [(1, 10), (3, 50), (17, 100), (99, 100), (40, 1000)])
def test_at_the_bound_so_few_findings_have_a_chance_of_5_percent(wrong: int, checked: int) -> None:
    bound = Fraction(upper_bound(wrong, checked))

    chance = sum(math.comb(checked, k) * bound**k * (1 - bound) ** (checked - k) for k in range(wrong + 1))

    assert float(chance) == pytest.approx(0.05, rel=1e-9)


def test_the_bound_is_in_its_range_however_many_were_checked() -> None:
    for wrong, checked in [(1, 1), (0, 1), (10**6, 10**7), (5 * 10**6, 10**7), (10**7 - 1, 10**7), (10**7, 10**7)]:
        bound = upper_bound(wrong, checked)
        assert wrong / checked < bound <= 1 or wrong == checked
    assert upper_bound(3, 3) == 1
