"""One minibatch: losses, gradient, step and stop, as pure functions of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.masks import keep_all_if_empty
from rlkit_es.learners.adam import AdamState, adam, clip_scale
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.flat import FlatModule
from rlkit_es.learners.recipes import Slots
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import Batch, PolicyStats

# What a step adds to the report, in this order; losses are counted where their part stepped.
REPORT = (
    "policy_loss",
    "value_loss",
    "kept_fraction",
    "grad_norm",
    "policy_steps",
    "critic_steps",
    "stopped",
)


class StepState(NamedTuple):
    """What a minibatch step takes and returns."""

    going: Tensor  # () bool: the policy has not stopped
    optimizer: AdamState
    report: Tensor  # (len(REPORT),) sums over the steps so far


class StepInputs(NamedTuple):
    """What stays the same over the minibatches of an epoch."""

    learning_rate: Tensor  # (2,) of policy and critic
    critic_on: Tensor  # () bool: the critic takes part in this epoch
    batch: Batch


class Losses(NamedTuple):
    """The value of a minibatch's losses, beside their gradient."""

    policy_loss: Tensor  # ()
    value_loss: Tensor  # ()
    kept_fraction: Tensor  # ()
    stats: PolicyStats  # (M,) before the step


class MinibatchStep:
    """The functions of one minibatch, closed over networks, slots and hyperparameters."""

    def __init__(self, policy: ActorCritic, slots: Slots, config: UpdateConfig) -> None:
        self.actor = FlatModule(policy.actor)
        self.critic = FlatModule(policy.critic)
        self.distribution = policy.distribution
        self.slots = slots
        self.config = config

    def joint(self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor) -> StepState:
        """Step policy and critic, as far as they are going, and decide whether the policy stops.

        Args:
            state: policy and critic.
            inputs: the whole batch and the learning rates.
            index: (M,) which samples make this minibatch.
            real: (M,) bool, False for padding.
        """
        mini = _take(inputs.batch, index, real)
        optimizer = state.optimizer
        gradient, losses = torch.func.grad(self._loss, has_aux=True)(optimizer.parameters, mini)
        before = self.config.stop_when == "before"
        policy_on = state.going
        if self.slots.may_stop and before:
            policy_on = policy_on & ~self.slots.stop(losses.stats, mini.valid)
        critic_on = inputs.critic_on
        if self.config.critic_epochs is None:
            critic_on = critic_on & policy_on
        active = torch.stack([policy_on, critic_on]).to(gradient.dtype)
        parts = torch.split(gradient, [self.actor.size, self.critic.size])
        square_norm = (torch.stack([part.square().sum() for part in parts]) * active).sum()
        scale, norm = clip_scale(square_norm, self.config.max_grad_norm)
        optimizer = adam(
            optimizer,
            gradient,
            scale,
            inputs.learning_rate,
            active,
            self.actor.size,
            self.config.adam_epsilon,
        )
        going = policy_on
        if self.slots.may_stop and not before:
            stats = self._stats(optimizer.parameters[: self.actor.size], mini)
            going = policy_on & ~self.slots.stop(stats, mini.valid)
        stopped = (state.going & ~going).to(norm.dtype)
        policy_count, critic_count = active.unbind(0)
        happened = [
            losses.policy_loss * policy_count,
            losses.value_loss * critic_count,
            losses.kept_fraction * policy_count,
            norm * policy_count,
            policy_count,
            critic_count,
            stopped,
        ]
        return StepState(going, optimizer, state.report + torch.stack(happened))

    def critic_only(self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor) -> StepState:
        """`joint` for a stopped policy, without the policy's share of the work.

        ``state.optimizer`` holds the critic's part alone; its ``steps`` are still (2,).
        """
        mini = _take(inputs.batch, index, real)
        optimizer = state.optimizer
        gradient, value_loss = torch.func.grad(self._value_loss, has_aux=True)(optimizer.parameters, mini)
        scale, _ = clip_scale(gradient.square().sum(), self.config.max_grad_norm)
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        active = torch.stack([zero, one])
        optimizer = adam(
            optimizer, gradient, scale, inputs.learning_rate, active, 0, self.config.adam_epsilon
        )
        happened = torch.stack([zero, value_loss, zero, zero, zero, one, zero])
        return StepState(state.going, optimizer, state.report + happened)

    def _loss(self, parameters: Tensor, mini: Batch) -> tuple[Tensor, Losses]:
        policy, critic = torch.split(parameters, [self.actor.size, self.critic.size])
        new = self.actor(policy, mini.observation)
        stats = policy_stats(self.distribution, new, mini.behaviour, mini.action)
        advantage = mini.advantage
        if self.config.advantage_normalization == "minibatch":
            advantage = normalize(advantage, mini.valid)
        keep = keep_all_if_empty(self.slots.mask(stats, advantage), mini.valid)
        policy_loss = -masked_mean(self.slots.surrogate(stats, advantage), keep)
        weighted_value_loss, value_loss = self._value_loss(critic, mini)
        total = policy_loss + weighted_value_loss
        if self.config.entropy_coefficient:
            entropy = masked_mean(self.distribution.entropy(new), mini.valid)
            total = total - self.config.entropy_coefficient * entropy
        kept_fraction = masked_mean(keep.to(total.dtype), mini.valid)
        return total, Losses(policy_loss, value_loss, kept_fraction, stats)

    def _value_loss(self, critic: Tensor, mini: Batch) -> tuple[Tensor, Tensor]:
        error = self.critic(critic, mini.observation) - mini.value_target
        value_loss = masked_mean(error.square(), mini.valid)
        return self.config.value_coefficient * value_loss, value_loss

    def _stats(self, policy: Tensor, mini: Batch) -> PolicyStats:
        new = self.actor(policy, mini.observation)
        return policy_stats(self.distribution, new, mini.behaviour, mini.action)


def _take(batch: Batch, index: Tensor, real: Tensor) -> Batch:
    """The samples at ``index`` (M,); padding becomes invalid."""
    mini = Batch(*(field.index_select(0, index) for field in batch))
    return mini._replace(valid=mini.valid & real)
