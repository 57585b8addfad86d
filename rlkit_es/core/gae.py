"""Generalised advantage estimation (Schulman et al., arXiv:1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets, equations 11 and 16 of the paper.

        delta_t = r_t + gamma * V(s_{t+1}) * (1 - terminated_t) - V(s_t)
        A_t     = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    A terminated step cuts the bootstrap; a terminated or truncated one cuts the sum. The last step
    bootstraps from its ``next_value`` unless it terminated.

    Args:
        reward: (T, N) rewards.
        value: (T, N) V(s_t).
        next_value: (T, N) V(s_{t+1}) of the true next observation, also at the end of an episode.
        terminated: (T, N) bool.
        done: (T, N) bool, terminated or truncated.
        gamma: discount factor, in [0, 1].
        gae_lambda: 0 is one-step advantage (biased), 1 is Monte Carlo (noisy).
        valid: (T, N) bool, False for rows that are no transitions; all True when None.

    Returns:
        advantage (T, N) and value_target = advantage + value (T, N); both 0 in invalid rows.
    """
    bootstrap = torch.where(terminated, torch.zeros_like(next_value), next_value)
    delta = reward + gamma * bootstrap - value
    carry = (gamma * gae_lambda) * (~done).to(delta.dtype)
    if valid is not None:
        delta = torch.where(valid, delta, torch.zeros_like(delta))
        carry = carry * valid
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    steps = zip(delta.unbind(0), carry.unbind(0), advantage.unbind(0), strict=True)
    for delta_t, carry_t, advantage_t in reversed(list(steps)):
        running = torch.addcmul(delta_t, carry_t, running, out=advantage_t)
    value_target = advantage + value
    if valid is not None:
        value_target = torch.where(valid, value_target, torch.zeros_like(value_target))
    return advantage, value_target
