"""One minibatch: gradient, step and stop, as pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rlkit_es.core.adaptation import adapt_to_kl, dual_ascent
from rlkit_es.errors import diverged
from rlkit_es.learners.adam import AdamState, Parts, adam, clip_scale, fused_adam
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.minibatch_loss import Losses, Minibatch, MinibatchLoss
from rlkit_es.learners.recipes import Slots
from rlkit_es.learners.samples import Samples
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch

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

# Bounds of an adaptive learning rate, as in rsl_rl.
_LOWEST_RATE, _HIGHEST_RATE = 1e-5, 1e-2


class Adaptive(NamedTuple):
    """What adapts from minibatch to minibatch, and is carried over from update to update."""

    rate_scale: Tensor  # () factor of the learning rates
    penalty: Tensor  # () dual variable of the constraint


class StepState(NamedTuple):
    """What a minibatch step takes and returns."""

    going: Tensor  # () bool: the policy has not stopped
    optimizer: AdamState
    adaptive: Adaptive
    report: Tensor  # (len(REPORT),) sums over the steps so far


class StepInputs(NamedTuple):
    """What stays the same over the minibatches of an epoch."""

    learning_rate: Tensor  # (3,) of each of `Parts`
    critic_on: Tensor  # () bool: the critic takes part in this epoch
    scheduled: dict[str, Tensor]  # () each: hyperparameters of slots that change over training
    batch: Batch
    everyones: Samples | tuple[()] = ()  # of all ranks; empty where there is one


class MinibatchStep:
    """The functions of one minibatch, closed over networks, slots and hyperparameters."""

    def __init__(self, policy: ActorCritic, slots: Slots, config: UpdateConfig, ranks: Ranks = ALONE) -> None:
        self.loss = MinibatchLoss(policy, slots, config, ranks)
        self.ranks = ranks
        self.actor, self.critic = self.loss.actor, self.loss.critic
        self.slots = slots
        self.config = config
        log_std = self.actor.leading("log_std")
        self._parts = Parts(log_std, self.actor.size - log_std, self.critic.size)
        # Convolutions are never compiled.
        self._adam = fused_adam if policy.pixels else adam

    def joint(self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor) -> StepState:
        """Step policy and critic, as far as they are going, and decide whether the policy stops.

        Args:
            state: policy and critic.
            inputs: the whole batch and the learning rates.
            index: (S,) which samples make this minibatch, of `samples.shuffled`.
            real: (S,) bool, False for padding.
        """
        mini = self._take(inputs, index, real)
        kept = self._mask_after_trial(state, inputs, mini) if self._masks_at_trial else None
        gradient, losses = self._gradient(state, inputs, mini, kept)
        policy_on, critic_on = losses.policy_on, inputs.critic_on
        if self.config.critic_epochs is None:
            critic_on = critic_on & policy_on
        adaptive = self._adapt(state.adaptive, losses, policy_on)
        active = torch.stack([policy_on, critic_on]).to(gradient.dtype)
        rates = self._rates(inputs, adaptive)
        optimizer, norm = self._descend(state.optimizer, gradient, active, rates)
        going = policy_on
        if self.slots.may_stop and self.config.stop_when == "after":
            stats = self.loss.stats(optimizer.parameters[: self.actor.size], mini)
            going = policy_on & ~self.slots.stop(stats, mini.valid, scheduled=inputs.scheduled)
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
        return StepState(going, optimizer, adaptive, state.report + torch.stack(happened))

    def critic_only(self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor) -> StepState:
        """`joint` for a stopped policy, without the policy's share of the work.

        ``state.optimizer`` holds the critic's part alone; its ``steps`` are still (2,). Where
        ``inputs.critic_on`` is false, nothing changes.
        """
        mini = self._take(inputs, index, real)
        optimizer = state.optimizer
        gradient, value_loss = self._differentiate(self.loss.value, optimizer.parameters, mini)
        gradient, value_loss = self._summed(gradient, value_loss)
        scale, _ = clip_scale(gradient.square().sum(), self.config.max_grad_norm)
        zero, on = torch.zeros_like(scale), inputs.critic_on.to(scale.dtype)
        active, rates = torch.stack([zero, on]), self._rates(inputs, state.adaptive)
        alone = Parts(0, 0, self._parts.critic)
        optimizer = self._adam(optimizer, gradient, scale, rates, active, alone, self.config.adam_epsilon)
        happened = torch.stack([zero, value_loss * on, zero, zero, zero, on, zero])
        return StepState(state.going, optimizer, state.adaptive, state.report + happened)

    @property
    def _masks_at_trial(self) -> bool:
        return self.slots.may_drop and self.config.mask_at == "trial"

    def _gradient(
        self, state: StepState, inputs: StepInputs, mini: Minibatch, kept: Tensor | None
    ) -> tuple[Tensor, Losses]:
        """(P,) over the samples of all ranks, and what is behind it."""
        gradient, losses = self._differentiate(
            self.loss.joint,
            state.optimizer.parameters,
            mini,
            state.going,
            inputs.critic_on,
            state.adaptive.penalty,
            inputs.scheduled,
            kept,
        )
        gradient, *means = self._summed(gradient, *losses[:-1])
        return gradient, Losses._make([*means, losses.policy_on])

    def _differentiate(
        self, loss: Callable[..., tuple[Tensor, Any]], at: Tensor, *rest: Any
    ) -> tuple[Tensor, Any]:
        """The gradient of ``loss(at, *rest)`` by ``at`` (P,), and what the loss returns beside its value."""
        if torch._C._functorch.is_batchedtensor(at):  # of several seeds, where autograd alone cannot help
            result: tuple[Tensor, Any] = torch.func.grad(loss, has_aux=True)(at, *rest)
            return result
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            value, beside = loss(leaf, *rest)
        (gradient,) = torch.autograd.grad(value, leaf)
        # An input that is handed through stays the tensor that it was, by which tracing knows it.
        return gradient, pytree.tree_map(lambda x: x.detach() if x.requires_grad else x, beside)

    def _summed(self, gradient: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        """``gradient`` (P,) and ``values`` () summed over ranks, in one exchange."""
        if self.ranks.size == 1:
            return gradient, *values
        total = self.ranks.sum(torch.cat([gradient, torch.stack(values)]))
        return total[: len(gradient)], *total[len(gradient) :].unbind()

    def _mask_after_trial(self, state: StepState, inputs: StepInputs, mini: Minibatch) -> Tensor:
        """(S,) bool: the mask where a step on all samples would lead."""
        gradient, _ = self._gradient(state, inputs, mini, mini.valid)
        # Whether the critic steps too decides how far the gradient is clipped.
        active = torch.stack([torch.ones_like(inputs.critic_on), inputs.critic_on]).to(gradient.dtype)
        rates = self._rates(inputs, state.adaptive)
        trial, _ = self._descend(state.optimizer, gradient, active, rates)
        stats = self.loss.stats(trial.parameters[: self.actor.size], mini)
        return self.loss.mask(stats, self.loss.advantage(mini, mini.valid), mini, inputs.scheduled)

    def _descend(
        self, optimizer: AdamState, gradient: Tensor, active: Tensor, rates: Tensor
    ) -> tuple[AdamState, Tensor]:
        """A step of the active parts, with their gradients clipped together; and their norm."""
        of_both = torch.split(gradient, [self.actor.size, self.critic.size])
        square_norm = (torch.stack([part.square().sum() for part in of_both]) * active).sum()
        scale, norm = clip_scale(square_norm, self.config.max_grad_norm)
        epsilon = self.config.adam_epsilon
        return self._adam(optimizer, gradient, scale, rates, active, self._parts, epsilon), norm

    def _rates(self, inputs: StepInputs, adaptive: Adaptive) -> Tensor:
        """(3,) learning rates of each of `Parts`."""
        if self.config.learning_rate_schedule == "adaptive_kl":
            return inputs.learning_rate * adaptive.rate_scale
        return inputs.learning_rate

    def _adapt(self, adaptive: Adaptive, losses: Losses, policy_on: Tensor) -> Adaptive:
        """The learning rate for this step and the penalty for the next, from the policy as it is."""
        rate_scale, penalty = adaptive
        if self.config.learning_rate_schedule == "adaptive_kl":
            first_rate = self.config.learning_rate
            adapted = adapt_to_kl(
                rate_scale,
                losses.kl,
                self.config.max_kl,
                lowest=min(_LOWEST_RATE / first_rate, 1.0),
                highest=max(_HIGHEST_RATE / first_rate, 1.0),
            )
            rate_scale = torch.where(policy_on, adapted, rate_scale)
        if self.slots.constraint is not None:
            limit, rate = self.config.constraint_limit, self.config.dual_learning_rate
            penalty = torch.where(policy_on, dual_ascent(penalty, losses.constraint, limit, rate), penalty)
        return Adaptive(rate_scale, penalty)

    def _take(self, inputs: StepInputs, index: Tensor, real: Tensor) -> Minibatch:
        """The samples at ``index`` (S,); padding becomes invalid."""
        own_index, own_real = self.ranks.own(index), self.ranks.own(real)
        own = Batch(*(field.index_select(0, own_index) for field in inputs.batch))
        own = own._replace(valid=own.valid & own_real)
        if not inputs.everyones:
            return Minibatch(own, own.advantage, own.valid)
        advantage, valid = inputs.everyones
        at = index + self._first_samples(len(inputs.batch.valid), index)
        return Minibatch(own, advantage.index_select(0, at), valid.index_select(0, at) & real)

    def _first_samples(self, batch_size: int, index: Tensor) -> Tensor:
        """(S,) for each column of ``index`` where its rank's samples begin among everyone's."""
        rank = torch.arange(len(index), device=index.device) // (len(index) // self.ranks.size)
        return rank * batch_size


def summarize(report: Tensor) -> dict[str, float]:
    """Metrics of an update, of the sums (len(REPORT),) over its steps: means but for the counts.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    sums = dict(zip(REPORT, report.tolist(), strict=True))
    for name, value in sums.items():
        if not math.isfinite(value):
            raise diverged(name)
    steps = dict.fromkeys(("policy_loss", "kept_fraction", "grad_norm"), sums["policy_steps"])
    steps["value_loss"] = sums["critic_steps"]
    return {name: value / max(steps.get(name, 1.0), 1.0) for name, value in sums.items()}
