import pytest
import torch
from torch import distributions as reference

from rlkit_es.models.distributions import Categorical, DiagonalGaussian, make_distribution, policy_stats
from rlkit_es.types import ActionSpec


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_example(seed: int, size: int, rows: int = 50, dtype=torch.float64):
    """Two sets of parameters and actions: [mean, log_std] (M, 2A) twice, (M, A)."""
    g = generator(seed)
    old, new = (0.7 * torch.randn(rows, 2 * size, generator=g, dtype=dtype) for _ in range(2))
    return old, new, torch.randn(rows, size, generator=g, dtype=dtype)


def categorical_example(seed: int, size: int, rows: int = 50, dtype=torch.float64):
    g = generator(seed)
    old, new = (2 * torch.randn(rows, size, generator=g, dtype=dtype) for _ in range(2))
    return old.log_softmax(-1), new.log_softmax(-1), torch.randint(size, (rows,), generator=g)


def torch_normal(parameters: torch.Tensor) -> reference.Distribution:
    mean, log_std = parameters.chunk(2, -1)
    return reference.Independent(reference.Normal(mean, log_std.exp()), 1)


CASES = [
    pytest.param(DiagonalGaussian, gaussian_example, torch_normal, size, id=f"gaussian{size}")
    for size in (1, 3, 17)
] + [
    pytest.param(
        Categorical, categorical_example, lambda p: reference.Categorical(logits=p), n, id=f"categorical{n}"
    )
    for n in (1, 2, 6)
]


@pytest.mark.parametrize(("family", "example", "torch_family", "size"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_against_torch_distributions(family, example, torch_family, size, seed) -> None:
    ours = family(size)
    old, new, action = example(seed, size)
    their_old, their_new = torch_family(old), torch_family(new)
    close = torch.testing.assert_close
    close(ours.log_prob(new, action), their_new.log_prob(action))
    close(ours.log_ratio(new, old, action), their_new.log_prob(action) - their_old.log_prob(action))
    close(ours.kl(old, new), reference.kl_divergence(their_old, their_new))
    close(ours.entropy(new), their_new.entropy())
    assert ours.parameter_size == new.shape[-1]


@pytest.mark.parametrize(("family", "example", "torch_family", "size"), CASES)
def test_one_number_for_each_sample_also_in_a_rollout_shape(family, example, torch_family, size) -> None:
    ours = family(size)
    old, new, action = example(4, size, rows=12)
    flat = policy_stats(ours, new, old, action)
    cut = policy_stats(ours, new.unflatten(0, (3, 4)), old.unflatten(0, (3, 4)), action.unflatten(0, (3, 4)))
    for one, other in zip(flat, cut, strict=True):
        assert one.shape == (12,)
        torch.testing.assert_close(other.flatten(), one)


@pytest.mark.parametrize(("family", "example", "torch_family", "size"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_ratio_is_exactly_zero_for_equal_parameters(family, example, torch_family, size, dtype) -> None:
    ours = family(size)
    parameters, _, action = example(5, size, rows=500, dtype=dtype)
    stats = policy_stats(ours, parameters, parameters.clone(), action)
    assert (stats.log_ratio == 0).all()
    assert (stats.ratio == 1).all()
    torch.testing.assert_close(stats.kl, torch.zeros_like(stats.kl), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "example", "torch_family", "size"), CASES)
def test_kl_is_not_negative_and_not_symmetric(family, example, torch_family, size) -> None:
    ours = family(size)
    old, new, _ = example(6, size)
    assert (ours.kl(old, new) >= -1e-12).all()
    if size > 2:
        assert ((ours.kl(old, new) - ours.kl(new, old)).abs() > 1e-3).any()


def test_gaussian_kl_and_entropy_are_summed_over_action_dimensions() -> None:
    old, new, _ = gaussian_example(7, 1)
    one, many = DiagonalGaussian(1), DiagonalGaussian(17)

    def repeat(parameters: torch.Tensor) -> torch.Tensor:
        return parameters.repeat_interleave(17, dim=-1)

    torch.testing.assert_close(many.kl(repeat(old), repeat(new)), 17 * one.kl(old, new))
    torch.testing.assert_close(many.entropy(repeat(new)), 17 * one.entropy(new))


def test_float32_log_ratio_keeps_digits_that_a_difference_of_log_probs_loses() -> None:
    family = DiagonalGaussian(17)
    old, _, action = gaussian_example(8, 17, rows=500)
    new = old + 1e-5 * torch.randn(old.shape, generator=generator(9), dtype=torch.float64)
    new, old, action = new.float(), old.float(), action.float()
    exact = family.log_ratio(new.double(), old.double(), action.double())
    error = (family.log_ratio(new, old, action) - exact).abs().mean()
    assert error < 3e-6
    assert error < (family.log_prob(new, action) - family.log_prob(old, action) - exact).abs().mean()


def curvature_of_the_kl(family, parameters: torch.Tensor) -> torch.Tensor:
    """Hessian of KL(old || new) by one sample's new parameters (D,), where they are the old ones."""
    return torch.func.hessian(lambda new: family.kl(parameters, new))(parameters)


@pytest.mark.parametrize("size", [1, 3, 17])
def test_gaussian_fisher_is_the_curvature_of_the_kl_and_nothing_is_off_its_diagonal(size: int) -> None:
    family, (parameters, _, _) = DiagonalGaussian(size), gaussian_example(11, size, rows=5)
    fisher = family.fisher(parameters)
    assert fisher.shape == parameters.shape
    for row, diagonal in zip(parameters, fisher, strict=True):
        torch.testing.assert_close(curvature_of_the_kl(family, row), torch.diag(diagonal))


def test_gaussian_fisher_is_the_second_moment_of_the_score() -> None:
    family, parameters = DiagonalGaussian(2), gaussian_example(12, 2, rows=1)[0].expand(100_000, 4)
    action = family.sample(parameters, family.noise((100_000,), generator(0)).double())
    leaf = parameters.clone().requires_grad_()
    (score,) = torch.autograd.grad(family.log_prob(leaf, action).sum(), leaf)
    moment = score.T @ score / len(score)
    fisher = torch.diag(family.fisher(parameters)[0])
    scale = fisher.diagonal().sqrt()
    assert ((moment - fisher) / (scale[:, None] * scale)).abs().max() < 0.03


@pytest.mark.parametrize("n", [1, 2, 6])
def test_categorical_fisher_gives_that_of_the_logits_through_log_softmax(n: int) -> None:
    family = Categorical(n)
    for logits in 2 * torch.randn(5, n, generator=generator(13), dtype=torch.float64):
        p = logits.softmax(-1)
        jacobian = torch.func.jacrev(lambda x: x.log_softmax(-1))(logits)
        fisher = jacobian.T @ torch.diag(family.fisher(logits.log_softmax(-1))) @ jacobian
        torch.testing.assert_close(fisher, torch.diag(p) - torch.outer(p, p))
        old = logits.log_softmax(-1)
        curvature = torch.func.hessian(lambda x, old=old: family.kl(old, x.log_softmax(-1)))(logits)
        torch.testing.assert_close(fisher, curvature)


@pytest.mark.parametrize(("family", "example", "torch_family", "size"), CASES)
def test_fisher_is_positive_and_keeps_shape_and_type(family, example, torch_family, size) -> None:
    for dtype in (torch.float32, torch.float64):
        parameters, _, _ = example(14, size, dtype=dtype)
        fisher = family(size).fisher(parameters)
        assert (fisher > 0).all()
        assert fisher.dtype == dtype
        cut = family(size).fisher(parameters.unflatten(0, (10, 5)))
        torch.testing.assert_close(cut.flatten(0, 1), fisher)


def test_gaussian_samples_have_the_moments() -> None:
    family = DiagonalGaussian(3)
    parameters = torch.tensor([1.0, -2.0, 0.0, -0.5, 0.3, 0.0]).expand(40_000, 6)
    samples = family.sample(parameters, family.noise((40_000,), generator(0)))
    torch.testing.assert_close(samples.mean(0), parameters[0, :3], rtol=0, atol=0.03)
    torch.testing.assert_close(samples.std(0), parameters[0, 3:].exp(), rtol=0.02, atol=0)
    correlation = torch.corrcoef(samples.T) - torch.eye(3)
    assert correlation.abs().max() < 0.03


def test_categorical_samples_have_the_probabilities() -> None:
    family = Categorical(4)
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    parameters = probabilities.log().expand(40_000, 4)
    samples = family.sample(parameters, family.noise((40_000,), generator(0)))
    assert samples.dtype == torch.int64
    torch.testing.assert_close(
        torch.bincount(samples, minlength=4) / 40_000, probabilities, rtol=0, atol=0.01
    )


@pytest.mark.parametrize("family", [DiagonalGaussian(3), Categorical(5)])
def test_noise_is_finite_and_fixed_by_the_seed(family) -> None:
    noise = family.noise((1000, 7), generator(1))
    assert noise.shape[:2] == (1000, 7)
    assert noise.isfinite().all()
    assert torch.equal(noise, family.noise((1000, 7), generator(1)))
    assert not torch.equal(noise, family.noise((1000, 7), generator(2)))


def test_the_mode_is_the_most_likely_action() -> None:
    parameters, _, actions = gaussian_example(10, 4)
    gaussian = DiagonalGaussian(4)
    best = gaussian.log_prob(parameters, gaussian.mode(parameters))
    assert (best >= gaussian.log_prob(parameters, actions)).all()
    parameters, _, actions = categorical_example(10, 4)
    categorical = Categorical(4)
    best = categorical.log_prob(parameters, categorical.mode(parameters))
    assert (best >= categorical.log_prob(parameters, actions)).all()


def test_the_family_follows_the_action_space() -> None:
    assert isinstance(make_distribution(ActionSpec(size=3, discrete=True)), Categorical)
    assert isinstance(make_distribution(ActionSpec(size=3)), DiagonalGaussian)
