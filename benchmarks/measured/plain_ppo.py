"""A PPO update as libraries usually write it: modules, autograd and ``torch.optim.Adam``, eagerly.

It is what our update is compared with: it steps on the same loss, and keeps no metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal


class PlainBatch(NamedTuple):
    """Samples of one rollout."""

    observation: Tensor  # (B, O)
    action: Tensor  # (B, A)
    log_prob: Tensor  # (B,) of the policy that acted
    advantage: Tensor  # (B,)
    value_target: Tensor  # (B,)


class PlainActorCritic(nn.Module):
    """Two networks and a log standard deviation."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.actor = _mlp(observation_size, action_size)
        self.critic = _mlp(observation_size, 1)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s), (M,)."""
        # Not validated: the comparison is with code that leaves out what it need not do.
        distribution = Normal(self.actor(observation), self.log_std.exp(), validate_args=False)
        log_prob: Tensor = distribution.log_prob(action)
        return log_prob.sum(-1)


class PlainPPO:
    """Carries out the update of arXiv:1707.06347 on batch after batch."""

    def __init__(
        self, model: PlainActorCritic, *, epochs: int, minibatch_size: int, learning_rate: float
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, eps=1e-5)

    def update(self, batch: PlainBatch) -> None:
        """Every epoch of one batch."""
        for index in self._minibatches(len(batch.advantage)):
            loss = self._loss(PlainBatch(*(field[index] for field in batch)))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            self.optimizer.step()

    def _minibatches(self, samples: int) -> Iterator[Tensor]:
        for _ in range(self.epochs):
            yield from torch.randperm(samples).split(self.minibatch_size)

    def _loss(self, mini: PlainBatch, clip_range: float = 0.2) -> Tensor:
        advantage = (mini.advantage - mini.advantage.mean()) / (mini.advantage.std() + 1e-8)
        ratio = (self.model.log_prob(mini.observation, mini.action) - mini.log_prob).exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value = self.model.critic(mini.observation).squeeze(-1)
        return policy_loss + 0.5 * nn.functional.mse_loss(value, mini.value_target)


def _mlp(inputs: int, outputs: int, hidden: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
    )
