"""The pieces of a trust-region step (TRPO, Schulman et al., arXiv:1502.05477, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MatrixVectorProduct = Callable[[Tensor], Tensor]


def conjugate_gradient(product: MatrixVectorProduct, target: Tensor, *, iterations: int) -> Tensor:
    """Solve ``H x = target`` for a positive definite H that is known by its products alone.

    No value is read back to the host: once it has converged, what is left to do changes nothing.

    Args:
        product: v (P,) to H v (P,).
        target: (P,).
        iterations: at most; P of them solve any system, but for rounding. 10 to 15 are usual in TRPO.

    Returns:
        (P,) x.
    """
    tolerance = (10 * torch.finfo(target.dtype).eps) ** 2  # of the squared residual: what rounding allows
    x = torch.zeros_like(target)
    residual = direction = target
    square = start = residual.dot(residual)
    for _ in range(iterations):
        going = square > tolerance * start
        image = product(direction)
        curvature = direction.dot(image)
        going = going & (curvature > 0)  # not where rounding has eaten it
        step = _ratio(square, curvature, going)
        x = x + step * direction
        residual = residual - step * image
        new_square = residual.dot(residual)
        direction = residual + _ratio(new_square, square, going) * direction
        square = torch.where(going, new_square, square)
    return x


def gauss_newton_product(output: Tensor, parameters: Tensor, metric: Tensor) -> MatrixVectorProduct:
    """v -> J^T M J v, with J the Jacobian of ``output`` by ``parameters`` and M = diag(``metric``).

    With the Fisher information of the distribution for M, that is the Fisher information of the
    policy, and exactly the Hessian of KL(old || new) where new is old: the KL's own gradient is 0
    there. J v is taken as the derivative of u -> J^T u, which is linear, so that one forward pass
    serves every product.

    Args:
        output: (M, D) computed from ``parameters`` with gradients on.
        parameters: (P,) leaf.
        metric: (M, D) not negative; the weight of each sample (0 for one to leave out) is part of it.
    """
    cotangent = torch.zeros_like(output, requires_grad=True)
    with torch.enable_grad():
        (pulled_back,) = torch.autograd.grad(output, parameters, cotangent, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (pushed_forward,) = torch.autograd.grad(pulled_back, cotangent, v, retain_graph=True)
        return torch.autograd.grad(output, parameters, metric * pushed_forward, retain_graph=True)[0]

    return product


def trust_region_step(product: MatrixVectorProduct, direction: Tensor, max_kl: float) -> Tensor:
    """``direction`` scaled to the boundary of the quadratic model of the trust region.

        step = sqrt(2 max_kl / (x^T H x)) x

    Args:
        product: v (P,) to H v (P,).
        direction: (P,) x.
        max_kl: nats.

    Returns:
        (P,); 0 for a direction of length 0.
    """
    curvature = direction.dot(product(direction))
    return _ratio(2 * max_kl * torch.ones_like(curvature), curvature, curvature > 0).sqrt() * direction


class LineSearch(NamedTuple):
    """How a line search ended."""

    parameters: Tensor  # (P,) the accepted point, or the start itself
    surrogate: Tensor  # () there
    accepted: bool
    trials: int  # points evaluated after the start


def backtracking_line_search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    step: Tensor,
    *,
    max_kl: float,
    shrink: float,
    trials: int,
) -> LineSearch:
    """The first of start + step, start + shrink step, ... with KL <= limit and a better surrogate.

    Args:
        evaluate: parameters (P,) to the surrogate () and KL(old || new) (), nats.
        start: (P,) returned as it is where no point is accepted.
        step: (P,) the full step.
        max_kl: the limit.
        shrink: factor from one trial to the next.
        trials: how many points to try.
    """
    surrogate_before, _ = evaluate(start)
    scale = 1.0
    for trial in range(1, trials + 1):
        candidate = start + scale * step
        surrogate, kl = evaluate(candidate)
        # NaN compares false: a step that breaks the policy is not accepted.
        if bool((surrogate > surrogate_before) & (kl <= max_kl)):
            return LineSearch(candidate, surrogate, accepted=True, trials=trial)
        scale *= shrink
    return LineSearch(start, surrogate_before, accepted=False, trials=trials)


def _ratio(numerator: Tensor, denominator: Tensor, where: Tensor) -> Tensor:
    """numerator / denominator, and 0 elsewhere than ``where``."""
    safe = torch.where(where, denominator, torch.ones_like(denominator))
    return torch.where(where, numerator / safe, torch.zeros_like(numerator))
