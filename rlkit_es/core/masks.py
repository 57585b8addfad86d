"""Sample masks: which samples may move the policy (sample dropout, arXiv:2302.02299).

Each takes ``stats`` and ``advantage`` (M,) first, its hyperparameters after, and returns ``keep``
(M,) bool. At theta_old every mask keeps everything. A mask that would keep nothing is replaced by
`keep_all_if_empty`, so that a minibatch is never spent on nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit_es.types import PolicyStats


def keep_all(stats: PolicyStats, advantage: Tensor) -> Tensor:
    """Every sample: the base recipes."""
    return torch.ones_like(stats.log_ratio, dtype=torch.bool)


def ratio_within(stats: PolicyStats, advantage: Tensor, dropout_threshold: float) -> Tensor:
    """|r - 1| < delta, the mask of the paper."""
    return (stats.ratio - 1).abs() < dropout_threshold


def ratio_below(stats: PolicyStats, advantage: Tensor, dropout_threshold: float) -> Tensor:
    """r - 1 < delta: drop on the right side only."""
    return stats.ratio - 1 < dropout_threshold


def ratio_above(stats: PolicyStats, advantage: Tensor, dropout_threshold: float) -> Tensor:
    """1 - r < delta: drop on the left side only."""
    return 1 - stats.ratio < dropout_threshold


def ratio_log_symmetric(stats: PolicyStats, advantage: Tensor, dropout_threshold: float) -> Tensor:
    """1 / (1 + delta) < r < 1 + delta: the same distance both ways in log r."""
    r = stats.ratio
    return (r > 1 / (1 + dropout_threshold)) & (r < 1 + dropout_threshold)


def kl_below(stats: PolicyStats, advantage: Tensor, dropout_rate: float, max_kl: float) -> Tensor:
    """KL(old || new)(s) < rate * max_kl, in nats, summed over action dimensions; the mask of the paper.

    Where `max_kl` falls, so does the limit: the same share of samples is dropped however small the step.
    """
    return stats.kl < dropout_rate * max_kl


def kl_within(stats: PolicyStats, advantage: Tensor, dropout_kl: float) -> Tensor:
    """KL(old || new)(s) < limit, in nats, summed over action dimensions.

    What bounds the variance is how far a state is moved, and small steps move none of them far.
    """
    return stats.kl < dropout_kl


def keep_all_if_empty(keep: Tensor, valid: Tensor) -> Tensor:
    """The kept valid samples, or every valid one where that would be none; (M,) bool."""
    kept = keep & valid
    return torch.where(kept.any(), kept, valid)
