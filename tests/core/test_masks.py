from itertools import pairwise

import pytest
import torch
from stats_examples import random_advantage, random_mask, random_stats

from rlkit_es.core import masks
from rlkit_es.types import PolicyStats

THRESHOLDS = [1e-3, 0.1, 0.5, 2.0, float("inf")]


@pytest.mark.parametrize("delta", THRESHOLDS)
@pytest.mark.parametrize("seed", range(3))
def test_formulas(delta: float, seed: int) -> None:
    stats, advantage = random_stats(seed), random_advantage(seed)
    for keep, formula in [
        (masks.keep_all(stats, advantage), lambda r: True),
        (masks.ratio_within(stats, advantage, delta), lambda r: abs(r - 1) < delta),
        (masks.ratio_below(stats, advantage, delta), lambda r: r - 1 < delta),
        (masks.ratio_above(stats, advantage, delta), lambda r: 1 - r < delta),
        (masks.ratio_log_symmetric(stats, advantage, delta), lambda r: 1 / (1 + delta) < r < 1 + delta),
    ]:
        assert keep.dtype == torch.bool
        assert keep.tolist() == [formula(r) for r in stats.ratio.tolist()]


@pytest.mark.parametrize(("rate", "max_kl"), [(1.0, 0.02), (0.5, 0.02), (2.0, 0.001), (float("inf"), 0.1)])
def test_kl_below_compares_each_state_with_its_share(rate: float, max_kl: float) -> None:
    stats = random_stats(4)
    keep = masks.kl_below(stats, random_advantage(4), rate, max_kl)
    assert keep.tolist() == [kl < rate * max_kl for kl in stats.kl.tolist()]


@pytest.mark.parametrize("limit", [1e-3, 0.02, 0.3, float("inf")])
def test_kl_within_compares_each_state_with_the_limit(limit: float) -> None:
    stats = random_stats(4)
    keep = masks.kl_within(stats, random_advantage(4), limit)
    assert keep.tolist() == [kl < limit for kl in stats.kl.tolist()]


def test_a_sample_at_the_threshold_is_dropped() -> None:
    on_it = random_stats(3)
    for i in range(20):
        deviation, kl = float((on_it.ratio - 1)[i]), float(on_it.kl[i])
        mask = masks.ratio_below if deviation > 0 else masks.ratio_above
        advantage = random_advantage(3)
        assert not mask(on_it, advantage, abs(deviation))[i]
        assert not masks.ratio_within(on_it, advantage, abs(deviation))[i]
        assert not masks.kl_below(on_it, advantage, 1.0, kl)[i]
        assert not masks.kl_within(on_it, advantage, kl)[i]


@pytest.mark.parametrize("delta", [1e-6, *THRESHOLDS])
def test_at_theta_old_every_mask_keeps_everything(delta: float) -> None:
    here = PolicyStats(torch.zeros(9), torch.zeros(9))
    advantage = random_advantage(5, 9)
    assert masks.keep_all(here, advantage).all()
    assert masks.kl_below(here, advantage, delta, 1e-3).all()
    assert masks.kl_within(here, advantage, delta).all()
    for mask in (masks.ratio_within, masks.ratio_below, masks.ratio_above, masks.ratio_log_symmetric):
        assert mask(here, advantage, delta).all()


@pytest.mark.parametrize("delta", THRESHOLDS)
def test_nesting(delta: float) -> None:
    stats, advantage = random_stats(6), random_advantage(6)
    within = masks.ratio_within(stats, advantage, delta)
    below, above = masks.ratio_below(stats, advantage, delta), masks.ratio_above(stats, advantage, delta)
    log_symmetric = masks.ratio_log_symmetric(stats, advantage, delta)
    assert torch.equal(within, below & above)
    assert (within | ~log_symmetric).all()


@pytest.mark.parametrize("mask", [masks.ratio_within, masks.ratio_log_symmetric])
def test_a_larger_threshold_keeps_more(mask) -> None:
    stats, advantage = random_stats(7), random_advantage(7)
    kept = [mask(stats, advantage, delta) for delta in THRESHOLDS]
    for fewer, more in pairwise(kept):
        assert (more | ~fewer).all()
    assert kept[-1].all()


def test_an_empty_mask_keeps_every_valid_sample() -> None:
    valid = random_mask(8)
    none = torch.zeros_like(valid)
    assert torch.equal(masks.keep_all_if_empty(none, valid), valid)
    assert torch.equal(masks.keep_all_if_empty(~valid, valid), valid)  # kept ones that are not valid


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_that_keeps_something_is_left_alone_but_for_invalid_samples(seed: int) -> None:
    keep, valid = random_mask(seed, keep=0.3), random_mask(10 + seed)
    assert torch.equal(masks.keep_all_if_empty(keep, valid), keep & valid)


def test_nothing_valid_keeps_nothing() -> None:
    none = torch.zeros(4, dtype=torch.bool)
    assert not masks.keep_all_if_empty(~none, none).any()
