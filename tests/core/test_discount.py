from __future__ import annotations

import random

import pytest

from rlkit_es.core.discount import discount_at

PAIRS = [(random.Random(seed).random(), random.Random(-1 - seed).random()) for seed in range(20)]
PAIRS += [(0.0, 0.9999), (0.9999, 0.0), (0.99, 0.99)]
FRACTIONS = (0.0, 0.1, 0.5, 0.999, 1.0)


@pytest.mark.parametrize(("gamma", "gamma_end"), PAIRS)
def test_moves_from_one_to_the_other(gamma: float, gamma_end: float) -> None:
    on_the_way = [discount_at(gamma, gamma_end, remaining) for remaining in FRACTIONS]
    assert on_the_way[-1] == pytest.approx(gamma, abs=1e-9)
    assert on_the_way[0] == pytest.approx(gamma_end, abs=1e-9)
    assert on_the_way == pytest.approx(sorted(on_the_way, reverse=gamma_end > gamma), abs=1e-9)


@pytest.mark.parametrize(("remaining", "steps"), [(1.0, 100), (0.75, 200), (0.5, 300), (0.0, 500)])
def test_the_horizon_moves_linearly(remaining: float, steps: int) -> None:
    assert 1 / (1 - discount_at(0.99, 0.998, remaining)) == pytest.approx(steps)
