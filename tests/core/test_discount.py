from __future__ import annotations

import random

import pytest

from rlkit_es.core.discount import discount_at

CASES = [(random.Random(seed).random(), 1 + 9 * random.Random(-1 - seed).random()) for seed in range(20)]
CASES += [(0.0, 1000.0), (0.9999, 2.0), (0.99, 1.0), (1.0, 3.0)]
FRACTIONS = (1.0, 0.999, 0.5, 0.1, 0.0)


@pytest.mark.parametrize(("gamma", "horizon_growth"), CASES)
def test_rises_from_the_first_to_the_last_and_is_a_discount(gamma: float, horizon_growth: float) -> None:
    on_the_way = [discount_at(gamma, horizon_growth, remaining) for remaining in FRACTIONS]
    assert on_the_way[0] == pytest.approx(gamma, abs=1e-12)
    assert on_the_way[-1] == pytest.approx(1 - (1 - gamma) / horizon_growth, abs=1e-12)
    assert on_the_way == sorted(on_the_way)
    assert all(0 <= discount <= 1 for discount in on_the_way)


@pytest.mark.parametrize(("remaining", "steps"), [(1.0, 100), (0.75, 200), (0.5, 300), (0.0, 500)])
def test_the_horizon_moves_linearly(remaining: float, steps: int) -> None:
    assert 1 / (1 - discount_at(0.99, 5.0, remaining)) == pytest.approx(steps)


@pytest.mark.parametrize("remaining", FRACTIONS)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.99, 0.9999, 1.0])
def test_a_factor_of_one_leaves_the_discount_as_it_is(gamma: float, remaining: float) -> None:
    assert discount_at(gamma, 1.0, remaining) == gamma
