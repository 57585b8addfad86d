import numpy as np
import pytest
import torch

from rlkit_es.core import running_stats


def merge(
    stats: running_stats.RunningStats, x: torch.Tensor, valid: torch.Tensor
) -> running_stats.RunningStats:
    return running_stats.combine(stats, running_stats.moments(x, valid))


def merge_in_chunks(x: torch.Tensor, valid: torch.Tensor, seed: int) -> running_stats.RunningStats:
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(x) + 1, size=9))  # empty chunks happen
    stats = running_stats.empty(tuple(x.shape[1:]))
    for start, end in zip([0, *cuts], [*cuts, len(x)], strict=True):
        stats = merge(stats, x[start:end], valid[start:end])
    return stats


def example(seed: int, shape: tuple[int, ...], offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(offset, 1.0, size=(1000, *shape)).astype(np.float32))
    return x, torch.from_numpy(rng.random(1000) < 0.7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("offset", [0.0, -3.0, 1e4])
def test_chunks_of_any_size_give_the_statistics_of_all_valid_rows(seed, shape, offset) -> None:
    x, valid = example(seed, shape, offset)
    x[~valid] = torch.nan
    stats = merge_in_chunks(x, valid, seed)
    rows = x.numpy()[valid.numpy()].astype(np.float64)
    assert stats.seen.item() == len(rows)
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(stats.variance, rows.var(0), rtol=3e-3 if offset == 1e4 else 1e-5)
    assert stats.mean.dtype == stats.variance.dtype == torch.float32
    assert stats.seen.dtype == torch.int64


def test_many_small_merges_stay_accurate_far_from_zero() -> None:
    x, valid = example(9, (3,), 1e4)
    stats = running_stats.empty((3,))
    for row, ok in zip(x.split(1), valid.split(1), strict=True):
        stats = merge(stats, row, ok)
    rows = x.numpy()[valid.numpy()].astype(np.float64)
    np.testing.assert_allclose(stats.mean, rows.mean(0), atol=0.03)  # 0.03 standard deviations
    np.testing.assert_allclose(stats.variance, rows.var(0), rtol=2e-2)


def test_nothing_seen_is_mean_zero_variance_one() -> None:
    stats = running_stats.empty((4,))
    assert stats.mean.tolist() == [0] * 4
    assert stats.variance.tolist() == [1] * 4
    assert stats.seen.item() == 0


def test_rows_that_are_not_valid_change_nothing() -> None:
    stats = merge_in_chunks(*example(0, (4,)), 0)
    same = merge(stats, torch.full((6, 4), torch.nan), torch.zeros(6, dtype=torch.bool))
    for before, after in zip(stats, same, strict=True):
        assert torch.equal(before, after)


def test_the_count_goes_on_past_what_float32_counts() -> None:
    many = running_stats.empty(())._replace(seen=torch.tensor(2**24, dtype=torch.int64))
    assert merge(many, torch.zeros(1), torch.ones(1, dtype=torch.bool)).seen == 2**24 + 1
