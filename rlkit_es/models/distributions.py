"""Action distributions, as functions of one parameter tensor ``(..., D)``.

The parameters of the behaviour policy are stored with each sample, rather than its log-probability:
the ratio and the exact KL both follow from them, and the log-ratio, a sum of per-dimension
differences, keeps the digits that a difference of two sums loses in float32.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from rlkit_es.types import ActionSpec, PolicyStats

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    """A family of distributions over actions."""

    parameter_size: int  # D

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise ``(*shape, ...)`` on the CPU for `sample`, drawn ahead so that sampling is pure."""
        ...

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """An action for each row: (N, A) float32, or (N,) int64."""
        ...

    def mode(self, parameters: Tensor) -> Tensor:
        """The most likely action of each row."""
        ...

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s), (M,), summed over action dimensions."""
        ...

    def log_ratio(self, new: Tensor, old: Tensor, action: Tensor) -> Tensor:
        """log pi_new(a|s) - log pi_old(a|s), (M,)."""
        ...

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new), (M,), nats, summed over action dimensions."""
        ...

    def entropy(self, parameters: Tensor) -> Tensor:
        """(M,), nats, summed over action dimensions."""
        ...

    def fisher(self, parameters: Tensor) -> Tensor:
        """Diagonal of the Fisher information in these parameters, (M, D)."""
        ...


class DiagonalGaussian:
    """Independent normals; parameters are ``[mean, log_std]``, D = 2A."""

    def __init__(self, action_size: int) -> None:
        self.action_size = action_size
        self.parameter_size = 2 * action_size

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, self.action_size, generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = parameters.chunk(2, dim=-1)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, dim=-1)[0]

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        mean, log_std = parameters.chunk(2, dim=-1)
        z = (action - mean) * (-log_std).exp()
        return (-0.5 * z.square() - log_std - _HALF_LOG_TWO_PI).sum(-1)

    def log_ratio(self, new: Tensor, old: Tensor, action: Tensor) -> Tensor:
        new_mean, new_log_std = new.chunk(2, dim=-1)
        old_mean, old_log_std = old.chunk(2, dim=-1)
        new_z = (action - new_mean) * (-new_log_std).exp()
        old_z = (action - old_mean) * (-old_log_std).exp()
        # a^2 - b^2 as (a - b)(a + b): exact where the policies agree.
        squares = (old_z - new_z) * (old_z + new_z)
        return (0.5 * squares + (old_log_std - new_log_std)).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        old_mean, old_log_std = old.chunk(2, dim=-1)
        new_mean, new_log_std = new.chunk(2, dim=-1)
        log_std_change = new_log_std - old_log_std
        shift = (old_mean - new_mean) * (-new_log_std).exp()
        spread = (-2 * log_std_change).exp()
        return (log_std_change + 0.5 * (spread + shift.square() - 1)).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        log_std = parameters.chunk(2, dim=-1)[1]
        return (log_std + _HALF_LOG_TWO_PI + 0.5).sum(-1)

    def fisher(self, parameters: Tensor) -> Tensor:
        log_std = parameters.chunk(2, dim=-1)[1]
        # Of the mean 1 / std^2, of log_std 2; nothing off the diagonal.
        return torch.cat([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)], dim=-1)


class Categorical:
    """One of n actions; parameters are log-probabilities, D = n."""

    def __init__(self, actions: int) -> None:
        self.parameter_size = actions

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        # Gumbel noise: argmax(log p + g) is a sample from p.
        uniform = torch.rand(*shape, self.parameter_size, generator=generator)
        return -(-uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log()).log()

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return (parameters + noise).argmax(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        return parameters.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def log_ratio(self, new: Tensor, old: Tensor, action: Tensor) -> Tensor:
        return self.log_prob(new, action) - self.log_prob(old, action)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        return (old.exp() * (old - new)).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return -(parameters.exp() * parameters).sum(-1)

    def fisher(self, parameters: Tensor) -> Tensor:
        # E[d log p_a d log p_a^T] over actions a, with the log-probabilities themselves as parameters.
        return parameters.exp()


def make_distribution(action: ActionSpec) -> DiagonalGaussian | Categorical:
    """The family that fits the action space."""
    return Categorical(action.size) if action.discrete else DiagonalGaussian(action.size)


def policy_stats(distribution: Distribution, new: Tensor, old: Tensor, action: Tensor) -> PolicyStats:
    """How far parameters ``new`` (M, D) are from ``old`` (M, D) at ``action``."""
    return PolicyStats(distribution.log_ratio(new, old, action), distribution.kl(old, new))
