import pytest
import torch
from stats_examples import random_advantage, random_mask, random_stats, stats_of
from torch import Tensor

from rlkit_es.core.masks import ratio_within
from rlkit_es.core.variance import masked_variance, surrogate_variance, surrogate_variance_bound

DELTAS = [0.01, 0.1, 0.5, 2.0]


def advantages(kind: str, seed: int) -> Tensor:
    """Advantages of various shapes: heavy-tailed, shifted, on one side, few of them not 0."""
    normal, other = random_advantage(seed), random_advantage(100 + seed)
    return {
        "normal": normal,
        "cauchy": normal / other,
        "shifted": normal - 50,
        "one_sided": normal.exp(),
        "sparse": torch.where(other > 2, 1e4 * normal, torch.zeros_like(normal)),
        "tiny": 1e-8 * normal,
    }[kind]


KINDS = ["normal", "cauchy", "shifted", "one_sided", "sparse", "tiny"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_surrogate_variance_is_the_population_variance_of_the_kept(kind: str, seed: int) -> None:
    stats, advantage, keep = random_stats(seed), advantages(kind, seed), random_mask(seed)
    expected = (stats.log_ratio.exp() * advantage)[keep].var(correction=0)
    torch.testing.assert_close(surrogate_variance(stats, advantage, keep), expected, rtol=1e-9, atol=0)


def test_where_the_policy_has_not_moved_it_is_the_variance_of_the_advantage() -> None:
    advantage, keep = random_advantage(0), random_mask(0)
    here = stats_of(torch.zeros_like(advantage))
    expected = advantage[keep].var(correction=0)
    torch.testing.assert_close(surrogate_variance(here, advantage, keep), expected)
    torch.testing.assert_close(masked_variance(advantage, keep), expected)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0])
def test_the_bound_holds_for_what_is_within(delta: float, kind: str, spread: float) -> None:
    for seed in range(10):
        stats, advantage = random_stats(seed, spread=spread), advantages(kind, seed)
        keep = ratio_within(stats, advantage, delta) & random_mask(seed)
        variance = surrogate_variance(stats, advantage, keep)
        assert variance <= surrogate_variance_bound(advantage, keep, delta) * (1 + 1e-9)


@pytest.mark.parametrize("delta", DELTAS)
def test_the_bound_holds_where_the_ratio_is_chosen_to_break_it(delta: float) -> None:
    for seed in range(10):
        advantage, keep = advantages("cauchy", seed), random_mask(seed)
        for side in (advantage.sign(), -advantage.sign(), (advantage - advantage.mean()).sign()):
            ratio = (1 + 0.999999 * delta * side).clamp(min=1e-9)
            variance = surrogate_variance(stats_of(ratio.log()), advantage, keep)
            assert variance <= surrogate_variance_bound(advantage, keep, delta) * (1 + 1e-9)


@pytest.mark.parametrize("delta", DELTAS)
def test_the_bound_is_nearly_attained_by_equal_ratios_and_advantages_of_mean_zero(delta: float) -> None:
    half = random_advantage(1, 100)
    advantage, keep = torch.cat([half, -half]), torch.ones(200, dtype=torch.bool)
    stats = stats_of(torch.full_like(advantage, 1 + delta * (1 - 1e-9)).log())
    assert ratio_within(stats, advantage, delta).all()
    bound = surrogate_variance_bound(advantage, keep, delta)
    torch.testing.assert_close(surrogate_variance(stats, advantage, keep), bound, rtol=1e-6, atol=0)


def test_a_larger_threshold_bounds_less_and_an_infinite_one_nothing() -> None:
    advantage, keep = random_advantage(2), random_mask(2)
    bounds = [float(surrogate_variance_bound(advantage, keep, d)) for d in (0.0, *DELTAS, torch.inf)]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(advantage[keep].var(correction=0).item())
    assert bounds[-1] == torch.inf


def test_of_nothing_everything_is_zero() -> None:
    stats, advantage = random_stats(3), random_advantage(3)
    nothing = torch.zeros_like(random_mask(3))
    assert surrogate_variance(stats, advantage, nothing) == 0
    assert masked_variance(advantage, nothing) == 0
    assert surrogate_variance_bound(advantage, nothing, 0.5) == 0


def test_what_is_dropped_may_be_anything() -> None:
    stats, advantage, keep = random_stats(4), random_advantage(4), random_mask(4)
    dirty = torch.where(keep, advantage, torch.full_like(advantage, torch.nan))
    assert surrogate_variance(stats, dirty, keep) == surrogate_variance(stats, advantage, keep)
    bounds = [surrogate_variance_bound(x, keep, 0.5) for x in (dirty, advantage)]
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1000.1])
def test_equal_values_do_not_vary(size: int, constant: float) -> None:
    assert masked_variance(torch.full((size,), constant), torch.ones(size, dtype=torch.bool)) == 0
