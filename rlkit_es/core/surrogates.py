"""Surrogate objectives, per sample, to be maximised.

Each takes ``stats`` and ``advantage`` (M,) first and its hyperparameters after, by the names that
the configuration has for them. ``r`` is the ratio and ``A`` the advantage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit_es.types import PolicyStats


def ratio(stats: PolicyStats, advantage: Tensor) -> Tensor:
    """r A, the importance-sampled objective (TRPO, arXiv:1502.05477, eq. 14; ESPO, arXiv:2202.00079)."""
    return stats.ratio * advantage


def ratio_minus_one(stats: PolicyStats, advantage: Tensor) -> Tensor:
    """(r - 1) A: the gradient of r A, with less variance near r = 1 (an ablation of arXiv:2302.02299)."""
    return (stats.ratio - 1) * advantage


def clip(stats: PolicyStats, advantage: Tensor, clip_range: float) -> Tensor:
    """min(r A, clip(r, 1 - eps, 1 + eps) A) (PPO, arXiv:1707.06347, eq. 7), eps = ``clip_range``."""
    r = stats.ratio
    return torch.minimum(r * advantage, r.clamp(1 - clip_range, 1 + clip_range) * advantage)


def spo(stats: PolicyStats, advantage: Tensor, clip_range: float) -> Tensor:
    """r A - |A| (r - 1)^2 / (2 eps) (SPO, arXiv:2401.16025), eps = ``clip_range``.

    Its maximum over r lies at 1 + eps sign(A): the bound of PPO's clip, with a gradient that leads back.
    """
    r = stats.ratio
    return r * advantage - advantage.abs() * (r - 1).square() / (2 * clip_range)
