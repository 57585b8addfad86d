import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rlkit_es.core.trust_region import (
    backtracking_line_search,
    conjugate_gradient,
    gauss_newton_product,
    trust_region_step,
)
from rlkit_es.learners.flat import FlatModule
from rlkit_es.models.distributions import Categorical, DiagonalGaussian
from rlkit_es.models.networks import MLP, CategoricalActor, GaussianActor

NAN, INF = math.nan, math.inf


def system(seed: int, size: int, condition: float) -> tuple[Tensor, Tensor]:
    """A positive definite matrix with eigenvalues from 1 to ``condition``, and a right-hand side."""
    g = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
    eigenvalues = torch.logspace(0, math.log10(condition), size, dtype=torch.float64)
    matrix = basis @ torch.diag(eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2, torch.randn(size, generator=g, dtype=torch.float64)


# --- conjugate gradient ---


@pytest.mark.parametrize("size", [1, 2, 7, 25, 60])
@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3])
@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradient_solves_positive_definite_systems(size: int, condition: float, seed: int) -> None:
    matrix, target = system(seed, size, condition)
    expected = torch.linalg.solve(matrix, target)
    x = conjugate_gradient(matrix.mv, target, iterations=4 * size)
    assert (x - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("size", [1, 2, 7, 25, 60])
def test_conjugate_gradient_needs_no_more_iterations_than_unknowns(size: int) -> None:
    matrix, target = system(1, size, 30.0)
    expected = torch.linalg.solve(matrix, target)
    x = conjugate_gradient(matrix.mv, target, iterations=size)
    assert (x - expected).norm() < 1e-6 * expected.norm()  # but for rounding


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_conjugate_gradient_needs_as_many_iterations_as_there_are_eigenvalues(distinct: int) -> None:
    eigenvalues = 1.0 + torch.arange(30, dtype=torch.float64) % distinct
    target = system(2, 30, 1.0)[1]
    x = conjugate_gradient(lambda v: eigenvalues * v, target, iterations=distinct)
    torch.testing.assert_close(x, target / eigenvalues, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("condition", [10.0, 1e3])
@pytest.mark.parametrize("seed", range(3))
def test_more_iterations_are_never_worse_in_the_norm_of_the_system(condition: float, seed: int) -> None:
    matrix, target = system(seed, 40, condition)
    expected = torch.linalg.solve(matrix, target)
    errors = []
    for iterations in range(60):
        error = conjugate_gradient(matrix.mv, target, iterations=iterations) - expected
        errors.append(float(error.dot(matrix.mv(error)).sqrt()))
    for worse, better in pairwise(errors):
        assert better <= worse * (1 + 1e-9) + 1e-12 * errors[0]


@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_once_converged_more_iterations_change_nothing(size: int, dtype: torch.dtype, scale: float) -> None:
    matrix, target = (x.to(dtype) for x in system(3, size, 100.0))
    x, same = (conjugate_gradient(matrix.mv, scale * target, iterations=n) for n in (20 * size, 30 * size))
    assert x.isfinite().all()
    assert torch.equal(x, same)
    assert x.dtype == dtype
    rounding = 1e-3 if dtype == torch.float32 else 1e-8
    assert (matrix.mv(x) - scale * target).norm() < rounding * scale * target.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_solution_for_zero_is_zero(dtype: torch.dtype) -> None:
    matrix = system(4, 5, 10.0)[0].to(dtype)
    x = conjugate_gradient(matrix.mv, torch.zeros(5, dtype=dtype), iterations=30)
    assert torch.equal(x, torch.zeros(5, dtype=dtype))


@pytest.mark.parametrize("number", [1e-3, 1.0, 7.0, 1e5])
def test_one_unknown_is_a_division(number: float) -> None:
    x = conjugate_gradient(lambda v: number * v, torch.tensor([3.0]), iterations=10)
    torch.testing.assert_close(x, torch.tensor([3.0 / number]))


def test_no_iteration_is_no_step_and_the_target_is_left_as_it_is() -> None:
    matrix, target = system(5, 4, 10.0)
    copy = target.clone()
    assert torch.equal(conjugate_gradient(matrix.mv, target, iterations=0), torch.zeros_like(target))
    conjugate_gradient(matrix.mv, target, iterations=10)
    assert torch.equal(target, copy)


# --- the Fisher product ---


def tiny_policy(name: str):
    """A policy in float64, its flat parameters and some observations."""
    g = torch.Generator().manual_seed(3)
    network = MLP((3, 4, 2 if name == "gaussian" else 3), "tanh", 1.0, g)
    actor = GaussianActor(network, 2, -0.4) if name == "gaussian" else CategoricalActor(network)
    distribution = DiagonalGaussian(2) if name == "gaussian" else Categorical(3)
    module = FlatModule(actor.double())
    parameters = module.gather() + 0.2 * torch.randn(module.size, generator=g, dtype=torch.float64)
    observation = torch.randn(9, 3, generator=g, dtype=torch.float64)
    return module, distribution, parameters.requires_grad_(), observation


def product_for(name: str, metric: Tensor | None = None):
    module, distribution, parameters, observation = tiny_policy(name)
    output = module(parameters, observation)
    if metric is None:
        metric = distribution.fisher(output.detach()) / len(output)
    return gauss_newton_product(output, parameters, metric), parameters


def matrix_of(product: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return torch.stack([product(column) for column in torch.eye(size, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_the_product_is_that_with_the_jacobian(name: str, zeros: float) -> None:
    module, _, parameters, observation = tiny_policy(name)
    jacobian = torch.func.jacrev(lambda p: module(p, observation).flatten())(parameters.detach())
    g = torch.Generator().manual_seed(0)
    metric = torch.rand(9, len(jacobian) // 9, generator=g, dtype=torch.float64)
    metric = metric * (torch.rand(9, 1, generator=g) >= zeros)
    product, _ = product_for(name, metric)
    for _ in range(5):
        v = torch.randn(len(parameters), generator=g, dtype=torch.float64)
        expected = jacobian.T @ (metric.flatten() * (jacobian @ v))
        torch.testing.assert_close(product(v), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
def test_the_product_is_symmetric_and_never_negative(name: str) -> None:
    product, parameters = product_for(name)
    matrix = matrix_of(product, len(parameters))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-12
    assert eigenvalues.max() > 1e-2


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
def test_the_product_is_the_hessian_of_the_mean_kl_where_the_policies_agree(name: str) -> None:
    module, distribution, parameters, observation = tiny_policy(name)
    here = parameters.detach()
    old = module(here, observation)
    hessian = torch.func.hessian(lambda p: distribution.kl(old, module(p, observation)).mean())(here)
    product, _ = product_for(name)
    torch.testing.assert_close(matrix_of(product, len(here)), hessian, rtol=1e-8, atol=1e-10)


def test_the_product_is_linear_leaves_its_argument_and_works_without_gradients() -> None:
    product, parameters = product_for("gaussian")
    g = torch.Generator().manual_seed(1)
    v, w = (torch.randn(len(parameters), generator=g, dtype=torch.float64) for _ in range(2))
    copy = v.clone()
    with torch.no_grad():
        torch.testing.assert_close(product(2 * v - 3 * w), 2 * product(v) - 3 * product(w))
    assert torch.equal(v, copy)
    assert not product(v).requires_grad


# --- the length of the step ---


@pytest.mark.parametrize("max_kl", [1e-4, 0.02, 3.0])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_quadratic_model_of_the_kl_is_max_kl_at_the_step(max_kl: float, scale: float) -> None:
    matrix, direction = system(7, 12, 100.0)
    step = trust_region_step(matrix.mv, scale * direction, max_kl)
    assert 0.5 * step.dot(matrix.mv(step)).item() == pytest.approx(max_kl, rel=1e-10)
    cosine = step.dot(direction) / (step.norm() * direction.norm())
    assert cosine.item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_direction_is_no_step(dtype: torch.dtype) -> None:
    zero = torch.zeros(4, dtype=dtype)
    assert torch.equal(trust_region_step(lambda v: 2 * v, zero, 0.02), zero)


# --- the line search ---


def scripted(outcomes: list[tuple[float, float]]):
    """An evaluation with the given surrogates and KLs, call by call, and the points it was called with."""
    points: list[Tensor] = []

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        points.append(point.clone())
        surrogate, kl = outcomes[len(points) - 1]
        return torch.tensor(surrogate), torch.tensor(kl)

    return evaluate, points


START, STEP = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])


def search(outcomes: list[tuple[float, float]], shrink: float = 0.5, max_kl: float = 0.1):
    """The start's outcome, then that of each trial."""
    evaluate, points = scripted(outcomes)
    trials = len(outcomes) - 1
    result = backtracking_line_search(
        evaluate, START, STEP, max_kl=max_kl, shrink=shrink, trials=max(trials, 0)
    )
    return result, points


@pytest.mark.parametrize("accepted_at", [1, 2, 5])
@pytest.mark.parametrize("shrink", [0.5, 0.8])
def test_the_first_acceptable_point_is_taken_and_the_rest_not_looked_at(
    accepted_at: int, shrink: float
) -> None:
    refused, good, better = (0.5, 0.05), (2.0, 0.05), (9.0, 0.01)
    result, points = search([(1.0, 0.0), *[refused] * (accepted_at - 1), good, better, better], shrink)
    assert result.accepted
    assert result.trials == accepted_at == len(points) - 1
    assert result.surrogate == 2.0
    torch.testing.assert_close(result.parameters, START + shrink ** (accepted_at - 1) * STEP)
    for trial, point in enumerate(points[1:]):
        torch.testing.assert_close(point, START + shrink**trial * STEP)


BAD = [(1.0, 0.0), (0.9, 0.0), (2.0, 0.11), (NAN, 0.0), (2.0, NAN), (NAN, NAN), (-INF, 0.0), (2.0, INF)]


@pytest.mark.parametrize("bad", BAD)
def test_where_no_point_is_acceptable_the_very_start_is_returned(bad: tuple[float, float]) -> None:
    copy = START.clone()
    result, points = search([(1.0, 0.0), *[bad] * 4])
    assert not result.accepted
    assert result.parameters is START
    assert torch.equal(START, copy)
    assert result.surrogate == 1.0
    assert result.trials == 4 == len(points) - 1


def test_the_limit_itself_is_acceptable() -> None:
    assert search([(1.0, 0.0), (2.0, 0.25)], max_kl=0.25)[0].accepted


def test_a_start_that_is_not_finite_is_not_left() -> None:
    result, _ = search([(NAN, NAN), (2.0, 0.01), (3.0, 0.01)])
    assert result.parameters is START
    assert not result.accepted


def test_what_is_accepted_is_better_and_within_the_limit_and_nothing_before_it_was() -> None:
    g = torch.Generator().manual_seed(0)
    ends = set()
    for _ in range(300):
        table = torch.stack([torch.randn(7, generator=g), 0.4 * torch.rand(7, generator=g)], dim=1)
        table = torch.where(torch.rand(7, 2, generator=g) < 0.1, torch.tensor(NAN), table)
        outcomes = [(float(surrogate), float(kl)) for surrogate, kl in table]
        result, points = search(outcomes)
        acceptable = [surrogate > outcomes[0][0] and kl <= 0.1 for surrogate, kl in outcomes[1:]]
        assert result.accepted is any(acceptable)
        assert len(points) == result.trials + 1
        if result.accepted:
            assert acceptable.index(True) + 1 == result.trials
            assert result.surrogate.item() == outcomes[result.trials][0]
            assert torch.equal(result.parameters, points[-1])
        ends.add((result.accepted, result.trials))
    assert len(ends) == 7  # accepted at each of the six trials, and not at all


@pytest.mark.parametrize("seed", range(5))
def test_a_real_surrogate_and_kl_are_held_to_their_conditions(seed: int) -> None:
    matrix, direction = system(seed, 6, 100.0)
    start = torch.zeros(6, dtype=torch.float64)

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        return direction.dot(point) - point.square().sum() ** 2, 0.5 * point.dot(matrix.mv(point))

    step = 5 * trust_region_step(matrix.mv, direction, 0.02)
    result = backtracking_line_search(evaluate, start, step, max_kl=0.02, shrink=0.8, trials=20)
    surrogate, kl = evaluate(result.parameters)
    assert result.accepted
    assert surrogate == result.surrogate > evaluate(start)[0]
    assert kl <= 0.02
    assert 1 < result.trials < 20
