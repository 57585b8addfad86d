import math

import pytest
import torch

from rlkit_es.core.adaptation import LARGEST_PENALTY, adapt_to_kl, dual_ascent

MAX_KL = 0.01
BOUNDS = {"lowest": 1e-5, "highest": 1e-2}


def adapted(rate: float, kl: float, **bounds: float) -> float:
    new = adapt_to_kl(torch.tensor(rate), torch.tensor(kl), MAX_KL, **(BOUNDS | bounds))
    assert new.shape == ()
    return float(new)


@pytest.mark.parametrize("rate", [1e-4, 3e-4, 1e-3])
def test_the_rate_goes_down_by_a_half_more_where_the_kl_is_too_large(rate: float) -> None:
    for kl in (0.0201, 0.5, math.inf):
        assert adapted(rate, kl) == pytest.approx(rate / 1.5)


@pytest.mark.parametrize("rate", [1e-4, 3e-4, 1e-3])
def test_the_rate_goes_up_by_a_half_where_the_kl_is_small(rate: float) -> None:
    for kl in (1e-7, 0.001, 0.00499):
        assert adapted(rate, kl) == pytest.approx(rate * 1.5)


@pytest.mark.parametrize("kl", [0.0051, 0.01, 0.0199])
def test_between_half_and_twice_the_aim_the_rate_stays(kl: float) -> None:
    assert adapted(3e-4, kl) == torch.tensor(3e-4)


@pytest.mark.parametrize("kl", [0.0, 1e-9, -1e-9, math.nan])
def test_a_kl_that_says_nothing_leaves_the_rate(kl: float) -> None:
    assert adapted(3e-4, kl) == torch.tensor(3e-4)


def test_the_rate_never_leaves_its_bounds_and_reaches_them() -> None:
    for kl, end in ((1.0, 1e-5), (1e-6, 1e-2)):
        rate = 3e-4
        for _ in range(30):
            rate = adapted(rate, kl)
            assert 1e-5 * (1 - 1e-6) <= rate <= 1e-2 * (1 + 1e-6)
        assert rate == pytest.approx(end)


@pytest.mark.parametrize("kl", [1e-6, 1.0])
def test_equal_bounds_hold_the_rate(kl: float) -> None:
    assert adapted(3e-4, kl, lowest=3e-4, highest=3e-4) == torch.tensor(3e-4)


def test_the_rate_settles_where_the_kl_is_near_its_aim() -> None:
    rate = 1e-5
    for _ in range(40):  # a policy whose KL grows with the square of the rate
        rate = adapted(rate, 1e4 * rate**2)
    assert MAX_KL / 2 <= 1e4 * rate**2 <= 2 * MAX_KL


# --- the dual variable ---


def ascended(penalty: float, constraint: float, limit: float = 0.05, rate: float = 0.1) -> float:
    return float(dual_ascent(torch.tensor(penalty), torch.tensor(constraint), limit, rate))


@pytest.mark.parametrize("penalty", [0.0, 0.3, 10.0])
def test_the_penalty_rises_where_the_constraint_is_violated_and_falls_where_it_holds(penalty: float) -> None:
    assert ascended(penalty, 0.15) == pytest.approx(penalty + 0.1 * 0.1)
    assert ascended(penalty, 0.01) == pytest.approx(max(0, penalty - 0.1 * 0.04))


def test_a_constraint_met_with_equality_is_a_fixed_point() -> None:
    for penalty in (0.0, 0.3, 10.0):
        assert ascended(penalty, 0.05) == torch.tensor(penalty)


def test_the_penalty_is_never_negative() -> None:
    g = torch.Generator().manual_seed(0)
    penalty = torch.tensor(0.2)
    for constraint in 0.1 * torch.rand(200, generator=g):
        penalty = dual_ascent(penalty, constraint, 0.06, 0.5)
        assert penalty >= 0
    assert ascended(0.001, 0.0, limit=5.0) == 0


def test_without_a_rate_the_penalty_stays() -> None:
    assert ascended(0.7, 3.0, rate=0.0) == torch.tensor(0.7)


def test_ascent_finds_the_multiplier() -> None:
    """Of max x - x^2 / 2 under x <= 1/4: x = 1 - lambda, so lambda = 3/4."""
    penalty = torch.tensor(0.0)
    for _ in range(300):
        penalty = dual_ascent(penalty, 1 - penalty, 0.25, 0.1)
    assert penalty.item() == pytest.approx(0.75)


def test_a_penalty_has_an_end() -> None:
    steep, large = torch.tensor(1e9), torch.tensor(LARGEST_PENALTY - 0.1)
    assert dual_ascent(large, steep, limit=0.1, rate=1.0) == LARGEST_PENALTY
    assert dual_ascent(torch.tensor(LARGEST_PENALTY), steep, limit=0.1, rate=0.0) == LARGEST_PENALTY
