"""Quantities that adapt while the policy is optimised: a learning rate and a dual variable."""

from __future__ import annotations

import torch
from torch import Tensor

# Per minibatch step, as in rsl_rl.
_RATE_FACTOR = 1.5
_TOLERANCE = 2.0
# At theta_old the KL is 0, or what rounding leaves of it, and says nothing of the rate.
_NOTHING = 1e-6
# A penalty that no ratio moves against: what more would only have to be unlearnt.
LARGEST_PENALTY = 1e3


def adapt_to_kl(rate: Tensor, kl: Tensor, max_kl: float, *, lowest: float, highest: float) -> Tensor:
    """A learning rate that keeps the KL near ``max_kl`` (the adaptive schedule of rsl_rl).

        rate / 1.5 where KL > 2 max_kl,  rate * 1.5 where KL < max_kl / 2

    Args:
        rate: () the learning rate.
        kl: () mean KL(old || new) of the minibatch, nats, before the step.
        max_kl: the KL aimed at.
        lowest: bound.
        highest: bound.
    """
    slower, faster = (rate / _RATE_FACTOR).clamp(min=lowest), (rate * _RATE_FACTOR).clamp(max=highest)
    rate = torch.where(kl > _TOLERANCE * max_kl, slower, rate)
    return torch.where((kl > _NOTHING * max_kl) & (kl < max_kl / _TOLERANCE), faster, rate)


def dual_ascent(penalty: Tensor, constraint: Tensor, limit: float, rate: float) -> Tensor:
    """One ascent step of the dual variable of ``constraint <= limit``; never negative, at most 1000.

    lambda <- max(0, lambda + rate (c - limit))

    Args:
        penalty: () lambda.
        constraint: () c, measured.
        limit: of c.
        rate: step size.
    """
    return (penalty + rate * (constraint - limit)).clamp(min=0, max=LARGEST_PENALTY)
