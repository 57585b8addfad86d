"""The variance of the importance-sampled objective, and what sample dropout bounds it by."""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit_es.core.losses import centred, masked_mean
from rlkit_es.types import PolicyStats


def masked_variance(x: Tensor, keep: Tensor) -> Tensor:
    """() population variance of ``x`` (M,) over the kept samples; 0 where nothing is kept."""
    return masked_mean(centred(x, keep).square(), keep)


def surrogate_variance(stats: PolicyStats, advantage: Tensor, keep: Tensor) -> Tensor:
    """() Var(r A) over the kept samples, which grows with the square of r (arXiv:2302.02299)."""
    return masked_variance(stats.ratio * advantage, keep)


def surrogate_variance_bound(advantage: Tensor, keep: Tensor, dropout_threshold: float) -> Tensor:
    """What |r - 1| < delta for every kept sample implies for Var(r A).

    With r A = A + (r - 1) A and the triangle inequality for standard deviations,

        sd(r A) <= sd(A) + sd((r - 1) A) <= sd(A) + delta sqrt(E[A^2])

    Args:
        advantage: (M,).
        keep: (M,) bool.
        dropout_threshold: delta.

    Returns:
        () the square of the right-hand side; infinite where delta is and any advantage is not 0.
    """
    spread = masked_variance(advantage, keep).sqrt()
    size = masked_mean(advantage.square(), keep).sqrt()
    moved = torch.where(size > 0, dropout_threshold * size, torch.zeros_like(size))  # inf * 0 is NaN
    return (spread + moved).square()
