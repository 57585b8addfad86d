"""Quantities that a dual variable holds down on average, per sample.

Each takes ``stats`` (M,) and returns (M,) values that are 0 where the policy has not moved.
"""

from __future__ import annotations

from torch import Tensor

from rlkit_es.types import PolicyStats

# The square and its gradient stay finite in float32, summed over samples and weighted.
_LOG_RATIO_MAX = 10.0


def ratio_variance(stats: PolicyStats) -> Tensor:
    """(r - 1)^2, whose mean is the variance of the ratio: E[r] is 1 (R2VPO, arXiv:2605.26784).

    To second order it is twice the KL: E[(r - 1)^2] = 2 KL(old || new) + O(|r - 1|^3).
    """
    ratio = stats.log_ratio.clamp(max=_LOG_RATIO_MAX).exp()
    return (ratio - 1).square()


def kl(stats: PolicyStats) -> Tensor:
    """KL(old || new), nats, summed over action dimensions: the penalised PPO of arXiv:1707.06347."""
    return stats.kl
