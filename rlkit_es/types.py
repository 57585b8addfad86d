"""The data that passes between the parts, and the shape legend that every file uses.

Shapes: ``T`` rollout steps, ``N`` environments, ``B = T * N`` samples, ``M`` samples of a minibatch,
``O`` observation size, ``A`` action size, ``D`` size of a distribution's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# exp(20) = 4.9e8: far outside any trust region, and still finite in float32 after a sum over samples.
_LOG_RATIO_MAX = 20.0


class PolicyStats(NamedTuple):
    """How far the policy has moved from the behaviour policy, per sample."""

    log_ratio: Tensor  # (M,) log pi(a|s) - log pi_old(a|s)
    kl: Tensor  # (M,) KL(old || new), nats, summed over action dimensions

    @property
    def ratio(self) -> Tensor:
        """r = pi(a|s) / pi_old(a|s), (M,); log r is held at 20 so that r stays finite."""
        return self.log_ratio.clamp(max=_LOG_RATIO_MAX).exp()


class Rollout(NamedTuple):
    """What was seen in ``T`` steps of ``N`` environments. Rewards are raw environment rewards."""

    observation: Tensor  # (T, N, O) float32, not normalised
    next_observation: Tensor  # (T, N, O) the true s_{t+1}, also where the episode ended
    action: Tensor  # (T, N, A) float32 unclipped, or (T, N) int64
    reward: Tensor  # (T, N) float32
    terminated: Tensor  # (T, N) bool: the task ended, so the bootstrap is cut
    truncated: Tensor  # (T, N) bool: the clock ended, so s_{t+1} is bootstrapped from
    valid: Tensor  # (T, N) bool: False where an autoreset ignored the action

    @property
    def done(self) -> Tensor:
        """(T, N) bool: the episode ended here, for either reason."""
        return self.terminated | self.truncated


class Batch(NamedTuple):
    """One rollout, flattened and ready for the update."""

    observation: Tensor  # (B, O) normalised
    action: Tensor  # (B, A) float32 unclipped, or (B,) int64
    behaviour: Tensor  # (B, D) distribution parameters of the policy that acted
    advantage: Tensor  # (B,)
    value_target: Tensor  # (B,)
    valid: Tensor  # (B,) bool


@dataclass(frozen=True)
class ActionSpec:
    """What an environment accepts as one action.

    ``low`` and ``high`` are the bounds of a continuous action (infinite where there is none);
    a discrete action counts from ``start``.
    """

    size: int  # A: action dimensions, or the number of discrete actions
    discrete: bool = False
    low: tuple[float, ...] = ()  # (A,)
    high: tuple[float, ...] = ()  # (A,)
    shape: tuple[int, ...] = ()  # of one continuous action, as the environment takes it
    start: int = 0

    @property
    def bounded(self) -> bool:
        """Whether every dimension has two finite bounds."""
        bounds = torch.tensor([*self.low, *self.high])
        return bool(self.low) and bool(torch.isfinite(bounds).all())


class Spaces(NamedTuple):
    """What goes into a policy and what comes out."""

    observation_size: int  # O
    action: ActionSpec
