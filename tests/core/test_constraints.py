import pytest
import torch
from stats_examples import random_stats
from torch import Tensor

from rlkit_es.core import constraints
from rlkit_es.models.distributions import DiagonalGaussian, policy_stats
from rlkit_es.types import PolicyStats


@pytest.mark.parametrize("seed", range(3))
def test_formulas(seed: int) -> None:
    stats = random_stats(seed)
    variance = torch.tensor([(r - 1) ** 2 for r in stats.ratio.tolist()], dtype=torch.float64)
    torch.testing.assert_close(constraints.ratio_variance(stats), variance)
    assert torch.equal(constraints.kl(stats), stats.kl)


@pytest.mark.parametrize("constraint", [constraints.ratio_variance, constraints.kl])
def test_a_policy_that_has_not_moved_violates_nothing(constraint) -> None:
    here = PolicyStats(torch.zeros(5), torch.zeros(5))
    assert torch.equal(constraint(here), torch.zeros(5))


def expectations(distance: float, mean: float, log_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """E[r - 1], E[(r - 1)^2] and KL of two normals ``distance`` apart, by a sum over a fine grid."""
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    old = torch.tensor([0.3, -0.2], dtype=torch.float64)
    new = old + distance * torch.tensor([mean, log_std], dtype=torch.float64)
    action = (old[0] + z * old[1].exp())[:, None]
    stats = policy_stats(DiagonalGaussian(1), new.expand(len(z), 2), old.expand(len(z), 2), action)
    weight = torch.softmax(-0.5 * z.square(), dim=0)
    deviation = stats.ratio - 1
    return weight @ deviation, weight @ constraints.ratio_variance(stats), weight @ constraints.kl(stats)


@pytest.mark.parametrize(("mean", "log_std"), [(1.0, 0.0), (0.0, 1.0), (0.7, -0.7)])
def test_the_variance_of_the_ratio_is_twice_the_kl_to_second_order(mean: float, log_std: float) -> None:
    gaps = []
    for distance in (0.1, 0.01, 0.001):
        bias, variance, kl = expectations(distance, mean, log_std)
        assert bias.abs() < 1e-10  # so that (r - 1)^2 has the variance for its mean
        gaps.append(abs(float(variance / (2 * kl)) - 1))
        assert gaps[-1] < 5 * distance
    # A gap of third order shrinks at least as fast as the distance, down to rounding.
    assert gaps[1] < 0.15 * gaps[0]
    assert gaps[2] < 0.15 * gaps[1] + 1e-5


@pytest.mark.parametrize("log_ratio", [19.9, 20.1, 1e4, torch.inf, -1e4, -torch.inf])
def test_a_huge_ratio_gives_a_finite_variance_and_gradient(log_ratio: float) -> None:
    x = torch.tensor([log_ratio], requires_grad=True)
    variance = constraints.ratio_variance(PolicyStats(x, x))
    (gradient,) = torch.autograd.grad(variance.sum(), x)
    assert variance.isfinite().all()
    assert gradient.isfinite().all()
