"""Running discounted returns: what reward scaling takes its statistics over."""

from __future__ import annotations

import torch
from torch import Tensor


def running_returns(
    reward: Tensor, done: Tensor, valid: Tensor, start: Tensor, *, gamma: float
) -> tuple[Tensor, Tensor]:
    """R_t = gamma R_{t-1} + r_t, begun anew after each episode (Engstrom et al., arXiv:2005.12729).

    Args:
        reward: (T, N) rewards.
        done: (T, N) bool.
        valid: (T, N) bool; in an invalid row R stays as it is.
        start: (N,) R before the first row.
        gamma: discount factor.

    Returns:
        running returns (T, N), and the (N,) value to start the next rollout from.
    """
    gain = torch.where(valid, reward, torch.zeros_like(reward))
    # What each step carries over from the one before: nothing past an end, all of it past no step.
    carry = torch.where(valid, torch.full_like(reward, gamma), torch.ones_like(reward))
    carry[1:] *= ~done[:-1]
    returns = torch.empty_like(reward)
    running = start
    for gain_t, carry_t, returns_t in zip(*(x.unbind(0) for x in (gain, carry, returns)), strict=True):
        running = torch.addcmul(gain_t, carry_t, running, out=returns_t)
    return returns, running * ~done[-1]
