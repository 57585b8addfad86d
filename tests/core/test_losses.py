import numpy as np
import pytest
import torch
from stats_examples import random_advantage, random_mask

from rlkit_es.core.losses import centred, explained_variance, masked_mean, normalize


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 2, 33, 500])
def test_masked_mean_against_numpy(seed: int, size: int) -> None:
    x, keep = random_advantage(seed, size), random_mask(seed, size)
    keep[-1] = True
    assert masked_mean(x, keep).item() == pytest.approx(x.numpy()[keep.numpy()].mean(), abs=1e-12)


def test_masked_mean_ignores_whatever_is_dropped() -> None:
    x, keep = random_advantage(0), random_mask(0)
    dirty = torch.where(keep, x, torch.tensor(torch.nan).double())
    dirty[(~keep).nonzero()[0]] = torch.inf
    assert masked_mean(dirty, keep) == masked_mean(x, keep)


def test_masked_mean_of_rows_is_that_of_each_column() -> None:
    columns, keep = [random_advantage(seed) for seed in range(3)], random_mask(0)
    each = torch.stack([masked_mean(column, keep) for column in columns])
    torch.testing.assert_close(masked_mean(torch.stack(columns, 1), keep), each)


def test_masked_mean_spreads_its_gradient_over_the_kept() -> None:
    x, keep = random_advantage(1), random_mask(1)
    dirty = torch.where(keep, x, torch.tensor(torch.nan).double()).requires_grad_()
    (gradient,) = torch.autograd.grad(masked_mean(dirty, keep), dirty)
    torch.testing.assert_close(gradient, keep / keep.sum().double())


def test_masked_mean_of_nothing_is_zero_with_a_finite_gradient() -> None:
    x = torch.tensor([1.0, torch.nan, torch.inf], requires_grad=True)
    mean = masked_mean(x, torch.zeros(3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(mean, x)
    assert mean.item() == 0
    assert gradient.tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_normalize_gives_mean_zero_and_deviation_one_over_the_kept(seed: int) -> None:
    x, keep = 3 * random_advantage(seed) + 5, random_mask(seed)
    normal = normalize(x, keep)
    kept = normal[keep].numpy()
    assert kept.mean() == pytest.approx(0, abs=1e-12)
    assert kept.std() == pytest.approx(1, abs=1e-6)
    # Dropped ones go through the same map.
    expected = (x - x[keep].mean()) / x[keep].std(correction=0)
    torch.testing.assert_close(normal, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_normalize_does_not_see_shift_and_scale(scale: float) -> None:
    x, keep = random_advantage(5), random_mask(5)
    torch.testing.assert_close(normalize(scale * x - 7, keep), normalize(x, keep), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -3.3, 1000.1])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 100])
def test_normalize_of_equal_values_is_zero(constant: float, size: int) -> None:
    x, everything = torch.full((size,), constant), torch.ones(size, dtype=torch.bool)
    assert normalize(x, everything).abs().max() < 1e-2


def test_normalize_of_one_kept_sample_is_zero_there_and_finite_elsewhere() -> None:
    x, keep = random_advantage(6, 5).float(), torch.tensor([False, False, True, False, False])
    normal = normalize(x, keep)
    assert normal[2] == 0
    assert normal.isfinite().all()


def test_normalize_with_everything_dropped_is_finite() -> None:
    assert normalize(random_advantage(7, 5).float(), torch.zeros(5, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_centred_takes_the_kept_mean_away_from_all(seed: int, offset: float) -> None:
    x, keep = random_advantage(seed) + offset, random_mask(seed)
    torch.testing.assert_close(centred(x, keep), x - x[keep].mean(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("constant", [0.1, -3.3, 1000.1])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_centred_equal_values_are_exactly_zero(constant: float, size: int) -> None:
    keep = torch.ones(size, dtype=torch.bool)
    assert torch.equal(centred(torch.full((size,), constant), keep), torch.zeros(size))


@pytest.mark.parametrize("seed", range(3))
def test_explained_variance_against_numpy(seed: int) -> None:
    target, noise, keep = random_advantage(seed), random_advantage(seed + 50), random_mask(seed)
    value = 0.7 * target + 0.3 * noise + 4
    v, t = value.numpy()[keep.numpy()], target.numpy()[keep.numpy()]
    expected = 1 - np.var(t - v) / np.var(t)
    assert explained_variance(value, target, keep).item() == pytest.approx(expected, abs=1e-12)


def test_explained_variance_at_its_landmarks() -> None:
    target, keep = random_advantage(8), random_mask(8)
    assert explained_variance(target, target, keep).item() == 1
    assert explained_variance(torch.full_like(target, 3.0), target, keep).item() == pytest.approx(0)
    assert explained_variance(-target, target, keep).item() == pytest.approx(-3)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1000.1])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_explained_variance_of_equal_targets_is_undefined(constant: float, size: int) -> None:
    target, everything = torch.full((size,), constant), torch.ones(size, dtype=torch.bool)
    value = random_advantage(9, size).float()
    assert explained_variance(value, target, everything).isnan()
