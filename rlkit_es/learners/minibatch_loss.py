"""The losses of one minibatch, as pure functions of the flat parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.centering import scale_common_gradient
from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.masks import keep_all_if_empty
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.flat import FlatModule
from rlkit_es.learners.recipes import Slots
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.ranks import Ranks
from rlkit_es.types import Batch, PolicyStats


class Minibatch(NamedTuple):
    """The samples of one minibatch: a rank's own, and what all ranks know of each other's."""

    own: Batch  # (M,)
    advantage: Tensor  # (S,) of the M samples of each rank, in their order
    valid: Tensor  # (S,) bool


class Losses(NamedTuple):
    """The values behind the gradient of a minibatch; all but the last are shares, to be summed."""

    policy_loss: Tensor  # () of the surrogate alone
    value_loss: Tensor  # ()
    kept_fraction: Tensor  # ()
    constraint: Tensor  # () mean of what is constrained; 0 where nothing is
    kl: Tensor  # () before the step, nats; 0 where nothing adapts to it
    policy_on: Tensor  # () bool: the policy takes this step


class MinibatchLoss:
    """Policy and value loss, closed over networks, slots and hyperparameters.

    Means are this rank's shares of those over all ranks: the sum of the shares is the mean. What is
    decided, which samples to keep and whether to stop, is decided over the samples of all.
    """

    def __init__(self, policy: ActorCritic, slots: Slots, config: UpdateConfig, ranks: Ranks) -> None:
        self.actor = FlatModule(policy.with_features)
        self.critic = FlatModule(policy.critic)
        self.distribution = policy.distribution
        self.shares_encoder = policy.shares_encoder
        self.slots = slots
        self.config = config
        self.ranks = ranks

    def joint(
        self,
        parameters: Tensor,
        mini: Minibatch,
        going: Tensor,
        critic_on: Tensor,
        penalty: Tensor,
        scheduled: Mapping[str, Tensor],
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Losses]:
        """The loss of policy and critic together.

        Args:
            parameters: (P,) policy first, then critic.
            mini: the samples.
            going: () bool, the policy has not stopped before.
            critic_on: () bool, the critic takes part in this epoch.
            penalty: () weight of the constraint.
            scheduled: hyperparameters that are not what the configuration says.
            kept: (S,) bool, what the mask kept elsewhere; None: as it says here.
        """
        policy, critic = torch.split(parameters, [self.actor.size, self.critic.size])
        own = mini.own
        through = self._less_in_common(mini) if self.config.common_gradient < 1 else None
        new, learning, critic_input = self.actor(policy, own.observation, through)
        stats = self._stats_at(learning, own)
        advantage = self.advantage(mini, mini.valid)
        kept, used, policy_on = self._decide(stats, advantage, mini, going, scheduled, kept)
        value_samples = mini.valid
        if self.config.mask_value:
            advantage = self.advantage(mini, used)
            value_samples = torch.where(policy_on, used, mini.valid)
        surrogate = self.slots.surrogate(stats, self.ranks.own(advantage), scheduled=scheduled)
        policy_loss = -self._mean(surrogate, used)
        seen = mini._replace(own=own._replace(observation=critic_input))
        weighted_value_loss, value_loss = self.value(critic, seen, value_samples)
        if self.shares_encoder:  # the critic's loss moves the policy's part too
            weighted_value_loss = weighted_value_loss * critic_on
        total = policy_loss + weighted_value_loss
        if self.config.entropy_coefficient:
            entropy = self._mean(self.distribution.entropy(new), mini.valid)
            total = total - self.config.entropy_coefficient * entropy
        constraint = kl = torch.zeros_like(total)
        if self.slots.constraint is not None:
            whole = stats if through is None else self._stats_at(new, own)
            constraint = self._mean(self.slots.constraint(whole, scheduled=scheduled), mini.valid)
            total = total + penalty * constraint
        if self.config.learning_rate_schedule == "adaptive_kl":
            kl = self._mean(stats.kl, mini.valid)
        kept_fraction = self._mean(self.ranks.own(kept).to(total.dtype), mini.valid)
        return total, Losses(policy_loss, value_loss, kept_fraction, constraint, kl, policy_on)

    def value(self, critic: Tensor, mini: Minibatch, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The weighted value loss and the loss itself, over ``samples`` (S,) or all that are valid.

        The observations of ``mini`` are what the critic takes (`ActorCritic.critic_input`).
        """
        error = self.critic(critic, mini.own.observation) - mini.own.value_target
        value_loss = self._mean(error.square(), mini.valid if samples is None else samples)
        return self.config.value_coefficient * value_loss, value_loss

    def mask(
        self, stats: PolicyStats, advantage: Tensor, mini: Minibatch, scheduled: Mapping[str, Tensor]
    ) -> Tensor:
        """(S,) bool: the valid samples that the mask keeps."""
        return self.slots.mask(stats, advantage, scheduled=scheduled) & mini.valid

    def advantage(self, mini: Minibatch, samples: Tensor) -> Tensor:
        """(S,) advantages, normalised over ``samples`` where minibatches are to be."""
        if self.config.advantage_normalization == "minibatch":
            return normalize(mini.advantage, samples)
        return mini.advantage

    def stats(self, policy: Tensor, mini: Minibatch) -> PolicyStats:
        """(S,) how far the policy with these flat parameters is from the behaviour policy."""
        return self.gathered(self.own_stats(policy, mini.own))

    def own_stats(self, policy: Tensor, samples: Batch) -> PolicyStats:
        """(M,) `stats` of this rank's ``samples`` alone."""
        return self._stats_at(self.actor(policy, samples.observation).parameters, samples)

    def gathered(self, stats: PolicyStats, sizes: Sequence[int] | None = None) -> PolicyStats:
        """(S,) of all ranks, of which each has (M,), or ``sizes``."""
        if self.ranks.size == 1:
            return stats
        return PolicyStats(*self.ranks.gather(torch.stack(stats, 1), sizes).unbind(1))

    def _decide(
        self,
        stats: PolicyStats,
        advantage: Tensor,
        mini: Minibatch,
        going: Tensor,
        scheduled: Mapping[str, Tensor],
        kept: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Over the samples of all ranks: which the mask keeps, which move the policy, and whether it goes on.

        Args:
            stats: (M,) of this rank.
            advantage: (S,) as the mask sees it.
            mini: the samples.
            going: () bool, the policy has not stopped before.
            scheduled: hyperparameters that are not what the configuration says.
            kept: (S,) bool, what the mask kept elsewhere; None: as it says here.
        """
        stops_before = self.slots.may_stop and self.config.stop_when == "before"
        if stops_before or (self.slots.may_drop and kept is None):
            stats = self.gathered(stats)
        if stops_before:
            going = going & ~self.slots.stop(stats, mini.valid, scheduled=scheduled)
        if not self.slots.may_drop:
            return mini.valid, mini.valid, going
        if kept is None:
            kept = self.mask(stats, advantage, mini, scheduled)
        return kept, keep_all_if_empty(kept, mini.valid), going

    def _stats_at(self, parameters: Tensor, samples: Batch) -> PolicyStats:
        """(M,) how far a distribution with ``parameters`` (M, D) is from the behaviour policy."""
        return policy_stats(self.distribution, parameters, samples.behaviour, samples.action)

    def _less_in_common(self, mini: Minibatch) -> Callable[[Tensor], Tensor]:
        """For the network's outputs (M, D): what the samples of all ranks have in common counts less."""

        def through(outputs: Tensor) -> Tensor:
            mean = self.ranks.differentiable_sum(self._mean(outputs, mini.valid))
            return scale_common_gradient(outputs, mean, self.config.common_gradient)

        return through

    def _mean(self, x: Tensor, keep: Tensor) -> Tensor:
        """(...) this rank's share of the mean over what ``keep`` (S,) holds; ``x`` (M, ...) are its own."""
        return masked_mean(x, self.ranks.own(keep), keep)
