"""The data that passes between the parts, and the shape legend that every file uses.

Shapes: ``T`` rollout steps, ``N`` environments, ``B = T * N`` samples, ``M`` samples of a minibatch,
``O`` observation size, ``A`` action size, ``D`` size of a distribution's parameters. A pixel
observation is (C, H, W) in place of (O,).
"""

from __future__ import annotations

import dataclasses
import math
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

    observation: Tensor  # (T, N, O) float32, not normalised; pixels (T, N, C, H, W) uint8
    next_observation: Tensor  # the true s_{t+1}, also where the episode ended; shares memory if it can
    action: Tensor  # (T, N, A) float32 unclipped, or (T, N) int64
    reward: Tensor  # (T, N) float32
    terminated: Tensor  # (T, N) bool: the task ended, so the bootstrap is cut
    truncated: Tensor  # (T, N) bool: the clock ended, so s_{t+1} is bootstrapped from
    valid: Tensor  # (T, N) bool: False where an autoreset ignored the action
    life_lost: Tensor  # (T, N) bool: terminated for learning, while the game and its score go on
    behaviour: Tensor | None = None  # (T, N, D) parameters that the actions are from, where they were kept
    value: Tensor | None = None  # (T, N) V(s_t), with them

    @property
    def done(self) -> Tensor:
        """(T, N) bool: what is learned from ends here, for either reason."""
        return self.terminated | self.truncated

    @property
    def over(self) -> Tensor:
        """(T, N) bool: the episode ended here, and with it the sum that is reported."""
        return self.done & ~self.life_lost


class Batch(NamedTuple):
    """One rollout, flattened and ready for the update."""

    observation: Tensor  # (B, O) normalised; pixels (B, C, H, W) uint8 as they are
    action: Tensor  # (B, A) float32 unclipped, or (B,) int64
    behaviour: Tensor  # (B, D) distribution parameters of the policy that acted
    advantage: Tensor  # (B,)
    value_target: Tensor  # (B,)
    valid: Tensor  # (B,) bool


@dataclass(frozen=True)
class ObservationSpec:
    """What one observation is: numbers (O,) float32, or pixels (C, H, W) uint8."""

    shape: tuple[int, ...]

    @property
    def pixels(self) -> bool:
        """Whether it is a picture."""
        return len(self.shape) == 3

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of a batch of them."""
        return torch.uint8 if self.pixels else torch.float32


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

    def fits(self, other: ActionSpec) -> bool:
        """Whether they are the same but for the rounding of bounds, in which backends differ."""
        bounds, others = [*self.low, *self.high], [*other.low, *other.high]
        return dataclasses.replace(self, low=other.low, high=other.high) == other and (
            len(bounds) == len(others)
            and all(math.isclose(x, y, rel_tol=1e-6) for x, y in zip(bounds, others, strict=True))
        )


class Spaces(NamedTuple):
    """What goes into a policy and what comes out."""

    observation: ObservationSpec
    action: ActionSpec

    def fits(self, other: Spaces) -> bool:
        """Whether a policy for ``other`` is one for these."""
        return self.observation == other.observation and self.action.fits(other.action)
