"""Stopping rules: when the policy has moved far enough on this batch.

Each takes ``stats`` and ``valid`` (M,) first, its hyperparameters after, and returns one bool ()
tensor on the same device: the decision is never forced through the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit_es.core.losses import masked_mean
from rlkit_es.types import PolicyStats


def never(stats: PolicyStats, valid: Tensor) -> Tensor:
    """Go on to the last epoch."""
    return torch.zeros((), dtype=torch.bool, device=valid.device)


def ratio_deviation(
    stats: PolicyStats,
    valid: Tensor,
    deviation_threshold: float,
    deviation_statistic: str = "mean",
) -> Tensor:
    """D >= delta with D the mean (or median) of |r - 1| (ESPO, arXiv:2202.00079, algorithm 1)."""
    deviation = (stats.ratio - 1).abs()
    if deviation_statistic == "median":
        return masked_median(deviation, valid) >= deviation_threshold
    return masked_mean(deviation, valid) >= deviation_threshold


def mean_kl(stats: PolicyStats, valid: Tensor, max_kl: float) -> Tensor:
    """Mean KL(old || new) >= limit, in nats, summed over action dimensions."""
    return masked_mean(stats.kl, valid) >= max_kl


def masked_median(x: Tensor, keep: Tensor) -> Tensor:
    """Lower median of the kept samples of ``x`` (M,); 0 where nothing is kept."""
    ordered = torch.where(keep, x, torch.full_like(x, torch.inf)).sort().values
    middle = (keep.sum() - 1).clamp(min=0) // 2
    median = ordered.gather(0, middle.view(1)).squeeze(0)
    return torch.where(keep.any(), median, torch.zeros_like(median))
