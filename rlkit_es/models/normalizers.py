"""Observation and reward normalisers: state of the policy, not of an environment wrapper."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlkit_es.core import running_stats
from rlkit_es.core.returns import running_returns
from rlkit_es.core.running_stats import RunningStats
from rlkit_es.ranks import ALONE, Ranks

_EPSILON = 1e-8
_ROUNDING = 1e-12  # variance of a constant, over its square, as float32 has it


class StatsModule(nn.Module):
    """Running statistics as buffers, so that they are saved with the parameters."""

    mean: Tensor
    variance: Tensor
    seen: Tensor

    inverse_std: Tensor  # 1 / sqrt(variance), kept because acting needs it at every step

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, value in running_stats.empty(shape)._asdict().items():
            self.register_buffer(name, value)
        self.register_buffer("inverse_std", torch.ones(shape))

    def merge(self, x: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> None:
        """Count the valid rows of ``x`` (B, *shape) of every rank."""
        merged = RunningStats(self.mean, self.variance, self.seen)
        own = (field[None] for field in running_stats.moments(x, valid))
        # The batches of all ranks in their order, so that all come to the same numbers.
        for moments in zip(*map(ranks.gather, own), strict=True):
            merged = running_stats.combine(merged, RunningStats(*moments))
        self.mean.copy_(merged.mean)
        self.variance.copy_(merged.variance)
        self.seen.copy_(merged.seen)
        self.inverse_std.copy_(self._inverse_std())

    def _inverse_std(self) -> Tensor:
        return (self.variance + _EPSILON).rsqrt()


class ObservationNormalizer(StatsModule):
    """(x - mean) / std, clipped; the identity (clipped) until something is counted.

    An entry that has never varied is 0, whatever it is: a policy knows nothing of it, and where it is
    another constant, as on another backend, or begins to vary, it would be as large as the clip.
    """

    def __init__(self, size: int, clip: float) -> None:
        super().__init__((size,))
        self.clip = clip

    def forward(self, observation: Tensor) -> Tensor:
        """Raw observations (..., O) to normalised ones."""
        return ((observation - self.mean) * self.inverse_std).clamp_(-self.clip, self.clip)

    def _inverse_std(self) -> Tensor:
        varied = self.variance > _ROUNDING * self.mean.square()
        return torch.where(varied, super()._inverse_std(), 0.0)

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """The same function, for as long as nothing is counted: the statistics are looked up once."""
        mean, inverse_std, clip = self.mean, self.inverse_std, self.clip
        return lambda observation: ((observation - mean) * inverse_std).clamp_(-clip, clip)


class RewardScaler(StatsModule):
    """Divides rewards by the standard deviation of the running discounted return.

    Rewards are scaled, not shifted: a shift would change which episodes are worth prolonging.
    """

    running: Tensor

    def __init__(self, num_envs: int, gamma: float, clip: float) -> None:
        super().__init__(())
        self.gamma = gamma
        self.clip = clip
        # Not saved: episodes begin anew wherever training is gone on with.
        self.register_buffer("running", torch.zeros(num_envs), persistent=False)

    def forward(self, reward: Tensor, done: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """Count this rollout's rewards (T, N) and return them scaled; the input is left as it is.

        Those of every rank are counted, and its own are returned.
        """
        returns, running = running_returns(reward, done, valid, self.running, gamma=self.gamma)
        self.running.copy_(running)
        self.merge(returns.flatten(), valid.flatten(), ranks)
        return (reward * self.inverse_std).clamp_(-self.clip, self.clip)
