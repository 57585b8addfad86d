import numpy as np
import pytest
import torch
from stats_examples import random_mask, random_stats

from rlkit_es.core import stops
from rlkit_es.types import PolicyStats


def with_garbage(stats: PolicyStats, valid: torch.Tensor) -> PolicyStats:
    """Invalid rows hold NaN or a huge number, alternately."""
    garbage = torch.full_like(stats.kl, torch.nan)
    garbage[::2] = 1e6
    return PolicyStats(*(torch.where(valid, x, garbage) for x in stats))


def crosses_at(stop, expected: float) -> None:
    """``stop`` says stop for thresholds up to ``expected`` and go on above it, in 0-dim bools."""
    for threshold, answer in [(expected * (1 - 1e-9), True), (expected * (1 + 1e-9), False)]:
        decision = stop(threshold)
        assert decision.shape == ()
        assert decision.dtype == torch.bool
        assert bool(decision) is answer


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_ratio_deviation_against_numpy(seed: int, size: int) -> None:
    stats, valid = random_stats(seed, size), random_mask(seed, size)
    valid[0] = True
    deviation = np.abs(np.exp(stats.log_ratio.numpy()) - 1)[valid.numpy()]
    dirty = with_garbage(stats, valid)
    crosses_at(lambda t: stops.ratio_deviation(dirty, valid, t), deviation.mean())
    crosses_at(lambda t: stops.ratio_deviation(dirty, valid, t, "mean"), deviation.mean())
    lower_median = np.quantile(deviation, 0.5, method="lower")
    crosses_at(lambda t: stops.ratio_deviation(dirty, valid, t, "median"), lower_median)


@pytest.mark.parametrize("seed", range(3))
def test_mean_kl_against_numpy(seed: int) -> None:
    stats, valid = random_stats(seed), random_mask(seed)
    expected = stats.kl.numpy()[valid.numpy()].mean()
    crosses_at(lambda t: stops.mean_kl(with_garbage(stats, valid), valid, t), expected)


@pytest.mark.parametrize("spread", [0.0, 100.0])
def test_never(spread: float) -> None:
    decision = stops.never(random_stats(0, spread=spread), random_mask(0))
    assert decision.shape == ()
    assert decision.dtype == torch.bool
    assert not decision


def test_no_stop_where_nothing_moved_or_nothing_is_valid() -> None:
    here = PolicyStats(torch.zeros(5), torch.zeros(5))
    everything = torch.ones(5, dtype=torch.bool)
    for stats, valid in [(here, everything), (random_stats(0, 5), ~everything)]:
        assert not stops.ratio_deviation(stats, valid, 1e-9)
        assert not stops.ratio_deviation(stats, valid, 1e-9, "median")
        assert not stops.mean_kl(stats, valid, 1e-9)


def test_an_infinite_threshold_never_stops() -> None:
    far, valid = random_stats(0, spread=50.0), random_mask(0)
    assert not stops.ratio_deviation(far, valid, float("inf"))
    assert not stops.ratio_deviation(far, valid, float("inf"), "median")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10])
@pytest.mark.parametrize("seed", range(3))
def test_masked_median_is_the_lower_one(count: int, seed: int) -> None:
    x = random_stats(seed, 20).log_ratio
    keep = torch.zeros(20, dtype=torch.bool)
    keep[torch.randperm(20, generator=torch.Generator().manual_seed(seed))[:count]] = True
    expected = sorted(x[keep].tolist())[(count - 1) // 2]
    dirty = torch.where(keep, x, torch.full_like(x, torch.nan))
    median = stops.masked_median(dirty, keep)
    assert median.shape == ()
    assert median.item() == expected


def test_masked_median_of_nothing_is_zero() -> None:
    x = torch.tensor([torch.nan, 3.0, torch.inf])
    assert stops.masked_median(x, torch.zeros(3, dtype=torch.bool)).item() == 0
