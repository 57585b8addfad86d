"""The losses of one minibatch, as pure functions of the flat parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.masks import keep_all_if_empty
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.flat import FlatModule
from rlkit_es.learners.recipes import Slots
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import Batch, PolicyStats


class Losses(NamedTuple):
    """The values behind the gradient of a minibatch."""

    policy_loss: Tensor  # () of the surrogate alone
    value_loss: Tensor  # ()
    kept_fraction: Tensor  # ()
    constraint: Tensor  # () mean of what is constrained; 0 where nothing is
    policy_on: Tensor  # () bool: the policy takes this step
    stats: PolicyStats  # (M,) before the step


class MinibatchLoss:
    """Policy and value loss, closed over networks, slots and hyperparameters."""

    def __init__(self, policy: ActorCritic, slots: Slots, config: UpdateConfig) -> None:
        self.actor = FlatModule(policy.with_features)
        self.critic = FlatModule(policy.critic)
        self.distribution = policy.distribution
        self.shares_encoder = policy.shares_encoder
        self.slots = slots
        self.config = config

    def joint(
        self,
        parameters: Tensor,
        mini: Batch,
        going: Tensor,
        critic_on: Tensor,
        penalty: Tensor,
        scheduled: Mapping[str, Tensor],
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Losses]:
        """The loss of policy and critic together.

        Args:
            parameters: (P,) policy first, then critic.
            mini: the samples.
            going: () bool, the policy has not stopped before.
            critic_on: () bool, the critic takes part in this epoch.
            penalty: () weight of the constraint.
            scheduled: hyperparameters that are not what the configuration says.
            keep: (M,) bool, which samples may move the policy; None: as the mask says here.
        """
        policy, critic = torch.split(parameters, [self.actor.size, self.critic.size])
        new, critic_input = self.actor(policy, mini.observation)
        stats = policy_stats(self.distribution, new, mini.behaviour, mini.action)
        advantage = self.advantage(mini, mini.valid)
        if keep is None:
            keep = self.mask(stats, advantage, mini, scheduled)
        policy_on = going
        if self.slots.may_stop and self.config.stop_when == "before":
            policy_on = going & ~self.slots.stop(stats, mini.valid, scheduled)
        value_samples = mini.valid
        if self.config.mask_value:
            advantage = self.advantage(mini, keep)
            value_samples = torch.where(policy_on, keep, mini.valid)
        policy_loss = -masked_mean(self.slots.surrogate(stats, advantage, scheduled), keep)
        seen = mini._replace(observation=critic_input)
        weighted_value_loss, value_loss = self.value(critic, seen, value_samples)
        if self.shares_encoder:  # the critic's loss moves the policy's part too
            weighted_value_loss = weighted_value_loss * critic_on
        total = policy_loss + weighted_value_loss
        if self.config.entropy_coefficient:
            entropy = masked_mean(self.distribution.entropy(new), mini.valid)
            total = total - self.config.entropy_coefficient * entropy
        constraint = torch.zeros_like(total)
        if self.slots.constraint is not None:
            constraint = masked_mean(self.slots.constraint(stats), mini.valid)
            total = total + penalty * constraint
        kept_fraction = masked_mean(keep.to(total.dtype), mini.valid)
        return total, Losses(policy_loss, value_loss, kept_fraction, constraint, policy_on, stats)

    def value(self, critic: Tensor, mini: Batch, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The weighted value loss and the loss itself, over ``samples`` (M,) or all that are valid.

        The observations of ``mini`` are what the critic takes (`ActorCritic.critic_input`).
        """
        error = self.critic(critic, mini.observation) - mini.value_target
        value_loss = masked_mean(error.square(), mini.valid if samples is None else samples)
        return self.config.value_coefficient * value_loss, value_loss

    def mask(
        self, stats: PolicyStats, advantage: Tensor, mini: Batch, scheduled: Mapping[str, Tensor]
    ) -> Tensor:
        """(M,) bool: the samples that may move the policy; all valid ones where that would be none."""
        return keep_all_if_empty(self.slots.mask(stats, advantage, scheduled), mini.valid)

    def advantage(self, mini: Batch, samples: Tensor) -> Tensor:
        """(M,) advantages, normalised over ``samples`` where minibatches are to be."""
        if self.config.advantage_normalization == "minibatch":
            return normalize(mini.advantage, samples)
        return mini.advantage

    def stats(self, policy: Tensor, mini: Batch) -> PolicyStats:
        """(M,) how far the policy with these flat parameters is from the behaviour policy."""
        new, _ = self.actor(policy, mini.observation)
        return policy_stats(self.distribution, new, mini.behaviour, mini.action)
