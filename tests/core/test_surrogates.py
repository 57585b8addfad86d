import pytest
import torch
from stats_examples import random_advantage, random_stats, stats_of
from torch import Tensor

from rlkit_es.core import surrogates

ALL = [
    pytest.param(surrogates.ratio, {}, id="ratio"),
    pytest.param(surrogates.ratio_minus_one, {}, id="ratio_minus_one"),
    pytest.param(surrogates.clip, {"clip_range": 0.2}, id="clip"),
    pytest.param(surrogates.spo, {"clip_range": 0.2}, id="spo"),
]
CLIP_RANGES = [0.05, 0.2, 0.9]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", CLIP_RANGES)
def test_equations(seed: int, eps: float) -> None:
    stats, advantage = random_stats(seed), random_advantage(seed)
    r = stats.log_ratio.exp()
    expected = torch.stack(
        [
            min(ri * ai, max(min(ri, torch.tensor(1 + eps)), torch.tensor(1 - eps)) * ai)
            for ri, ai in zip(r, advantage, strict=True)
        ]
    )
    torch.testing.assert_close(surrogates.ratio(stats, advantage), r * advantage)
    torch.testing.assert_close(surrogates.clip(stats, advantage, eps), expected, check_dtype=False)
    torch.testing.assert_close(surrogates.ratio_minus_one(stats, advantage), (r - 1) * advantage)
    penalty = advantage.abs() * (r - 1) ** 2 / (2 * eps)
    torch.testing.assert_close(surrogates.spo(stats, advantage, eps), r * advantage - penalty)


@pytest.mark.parametrize(("surrogate", "hyperparameters"), ALL)
def test_at_theta_old_it_is_the_advantage_with_the_policy_gradient(surrogate, hyperparameters) -> None:
    advantage = random_advantage(0)
    log_ratio = torch.zeros_like(advantage, requires_grad=True)
    objective = surrogate(stats_of(log_ratio), advantage, **hyperparameters)
    (gradient,) = torch.autograd.grad(objective.sum(), log_ratio)
    value = torch.zeros_like(advantage) if surrogate is surrogates.ratio_minus_one else advantage
    torch.testing.assert_close(objective.detach(), value)
    torch.testing.assert_close(gradient, advantage)


@pytest.mark.parametrize("seed", range(3))
def test_ratio_minus_one_differs_from_the_ratio_by_the_advantage_and_not_in_its_gradient(seed: int) -> None:
    stats, advantage = random_stats(seed), random_advantage(seed)
    plain, shifted = surrogates.ratio(stats, advantage), surrogates.ratio_minus_one(stats, advantage)
    torch.testing.assert_close(plain - shifted, advantage)
    gradients = []
    for surrogate in (surrogates.ratio, surrogates.ratio_minus_one):
        log_ratio = stats.log_ratio.clone().requires_grad_()
        gradients += torch.autograd.grad(surrogate(stats_of(log_ratio), advantage).sum(), log_ratio)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("eps", CLIP_RANGES)
def test_clip_is_the_ratio_inside_the_range_and_below_it_everywhere(eps: float) -> None:
    stats, advantage = random_stats(1), random_advantage(1)
    inside = (stats.ratio - 1).abs() <= eps
    clipped, plain = surrogates.clip(stats, advantage, eps), surrogates.ratio(stats, advantage)
    assert inside.any()
    torch.testing.assert_close(clipped[inside], plain[inside])
    assert (clipped <= plain).all()


@pytest.mark.parametrize("eps", CLIP_RANGES)
def test_clip_has_no_gradient_where_moving_on_would_pay(eps: float) -> None:
    stats, advantage = random_stats(2), random_advantage(2)
    log_ratio = stats.log_ratio.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surrogates.clip(stats_of(log_ratio), advantage, eps).sum(), log_ratio)
    r = stats.ratio
    beyond = ((r > 1 + eps) & (advantage > 0)) | ((r < 1 - eps) & (advantage < 0))
    assert beyond.any()
    assert (gradient[beyond] == 0).all()
    assert (gradient[~beyond] != 0).all()


@pytest.mark.parametrize("eps", CLIP_RANGES)
def test_spo_peaks_at_one_plus_eps_sign_of_the_advantage(eps: float) -> None:
    advantage = random_advantage(3, 20)
    peak = 1 + eps * advantage.sign()

    def at(r: Tensor) -> Tensor:
        return surrogates.spo(stats_of(r.log()), advantage, eps)

    for offset in (-0.9, -0.01, 0.01, 0.5, 5.0):
        assert (at(peak) > at(peak + offset * (1 - eps))).all()
    r = peak.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(at(r).sum(), r)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("surrogate", "hyperparameters"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_for_huge_log_ratios(surrogate, hyperparameters, dtype) -> None:
    huge = [19.9, 20.0, 20.1, 89.0, 1e4, 1e30, torch.inf]
    log_ratio = torch.tensor([*huge, *(-x for x in huge)], dtype=dtype, requires_grad=True)
    for sign in (1.0, -1.0):
        objective = surrogate(stats_of(log_ratio), torch.full_like(log_ratio, sign), **hyperparameters)
        (gradient,) = torch.autograd.grad(objective.sum(), log_ratio)
        assert objective.isfinite().all()
        assert gradient.isfinite().all()


def test_the_ratio_is_finite_and_exact_below_its_bound() -> None:
    log_ratio = torch.tensor([-200.0, -1.0, 0.0, 19.0, 21.0, 1e5])
    ratio = stats_of(log_ratio).ratio
    assert ratio.isfinite().all()
    torch.testing.assert_close(ratio[:4], log_ratio[:4].exp(), rtol=0, atol=0)
    assert ratio[4] == ratio[5] == torch.tensor(20.0).exp()
