"""The Adam step: minibatch gradient ascent on the recipe's surrogate, with the critic beside it.

One update is a few hundred calls of `MinibatchStep`, a pure function of tensors but for the state
that it moves in place. It is compiled as it stands, or run eagerly: there is one version of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.masks import keep_all_if_empty
from rlkit_es.core.minibatches import shuffled_minibatches
from rlkit_es.errors import NonFiniteError
from rlkit_es.learners.adam import AdamState, adam_, clip_scale, init_state
from rlkit_es.learners.compilation import compiled
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.flat import FlatModule
from rlkit_es.learners.recipes import Slots
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import Batch, PolicyStats

# What a minibatch step reports, in this order.
REPORT = (
    "policy_loss",
    "value_loss",
    "kept_fraction",
    "grad_norm",
    "policy_stepped",
    "critic_stepped",
    "stopped",
)


class Switches(NamedTuple):
    """What the host or the stop has switched off; on the device, so that nothing waits for it."""

    policy: Tensor  # () bool: the policy has not stopped
    critic: Tensor  # () bool


class Losses(NamedTuple):
    """The value of a minibatch's losses, beside their gradient."""

    policy_loss: Tensor  # ()
    value_loss: Tensor  # ()
    kept_fraction: Tensor  # ()
    stats: PolicyStats  # (M,) before the step


class MinibatchStep:
    """The tensor functions of one minibatch, closed over networks, slots and hyperparameters."""

    def __init__(self, policy: ActorCritic, slots: Slots, config: UpdateConfig) -> None:
        self.actor = FlatModule(policy.actor)
        self.critic = FlatModule(policy.critic)
        self.distribution = policy.distribution
        self.slots = slots
        self.config = config

    def joint(
        self,
        state: AdamState,
        learning_rate: Tensor,
        switches: Switches,
        batch: Batch,
        index: Tensor,
        real: Tensor,
    ) -> Tensor:
        """Step policy and critic, as far as they are switched on, and decide whether the policy stops.

        Args:
            state: updated in place.
            learning_rate: (2,) of policy and critic.
            switches: updated in place when the stop is reached.
            batch: the whole batch.
            index: (M,) which of its samples make this minibatch.
            real: (M,) bool, False for padding.

        Returns:
            (len(REPORT),) what happened.
        """
        mini = _take(batch, index, real)
        gradient, losses = torch.func.grad(self._loss, has_aux=True)(state.parameters, mini)
        policy_on = switches.policy
        before = self.config.stop_when == "before"
        if self.slots.may_stop and before:
            policy_on = policy_on & ~self.slots.stop(losses.stats, mini.valid)
        critic_on = switches.critic
        if self.config.critic_epochs is None:
            critic_on = critic_on & policy_on
        active = torch.stack([policy_on, critic_on]).to(gradient.dtype)
        parts = torch.split(gradient, [self.actor.size, self.critic.size])
        square_norm = (torch.stack([part.square().sum() for part in parts]) * active).sum()
        scale, norm = clip_scale(square_norm, self.config.max_grad_norm)
        adam_(state, gradient, scale, learning_rate, active, self.actor.size, self.config.adam_epsilon)
        goes_on = policy_on
        if self.slots.may_stop and not before:
            stats = self._stats(state.parameters[: self.actor.size], mini)
            goes_on = policy_on & ~self.slots.stop(stats, mini.valid)
        stopped = (switches.policy & ~goes_on).to(norm.dtype)
        switches.policy.copy_(goes_on)
        report = [losses.policy_loss, losses.value_loss, losses.kept_fraction, norm, *active, stopped]
        return torch.stack(report)

    def critic_only(
        self, state: AdamState, learning_rate: Tensor, batch: Batch, index: Tensor, real: Tensor
    ) -> Tensor:
        """`joint` for a stopped policy, without the policy's share of the work.

        ``state`` holds the critic's part alone, updated in place; ``learning_rate`` is (2,) as ever.
        """
        mini = _take(batch, index, real)
        gradient, value_loss = torch.func.grad(self._value_loss, has_aux=True)(state.parameters, mini)
        scale, norm = clip_scale(gradient.square().sum(), self.config.max_grad_norm)
        zero, one = torch.zeros_like(norm), torch.ones_like(norm)
        active = torch.stack([zero, one])
        adam_(state, gradient, scale, learning_rate, active, 0, self.config.adam_epsilon)
        return torch.stack([zero, value_loss, zero, norm, zero, one, zero])

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


class AdamStep:
    """Carries out one recipe's update on batch after batch.

    Args:
        policy: its parameters move to one flat vector, which this object owns from then on.
        slots: the recipe, filled in.
        config: the hyperparameters.
        generator: a CPU generator for the order of the samples.
        watch_stop: look at the stop after each minibatch and save what need not be computed. False
            leaves the decision on the device alone, so that the host never waits; the parameters
            that result are the same.
    """

    def __init__(
        self,
        policy: ActorCritic,
        slots: Slots,
        config: UpdateConfig,
        generator: torch.Generator,
        *,
        watch_stop: bool = True,
    ) -> None:
        self.config = config
        self.generator = generator
        self.watch_stop = watch_stop
        self._step = step = MinibatchStep(policy, slots, config)
        parameters = torch.cat([step.actor.gather(), step.critic.gather()])
        step.actor.adopt(parameters[: step.actor.size])
        step.critic.adopt(parameters[step.actor.size :])
        self.state = init_state(parameters)
        # The critic's part of the state, as views.
        self.critic_state = AdamState(
            parameters=self.state.parameters[step.actor.size :],
            exp_avg=self.state.exp_avg[step.actor.size :],
            exp_avg_sq=self.state.exp_avg_sq[step.actor.size :],
            steps=self.state.steps,
        )
        self._device = device = parameters.device
        self.switches = Switches(*(torch.ones((), dtype=torch.bool, device=device) for _ in range(2)))
        self._joint: Callable[..., Tensor] = step.joint
        self._critic_only: Callable[..., Tensor] = step.critic_only

    def compile(self) -> None:
        """Compile the minibatch functions; it happens when each is first called."""
        self._joint = compiled(self._step.joint, self._device)
        self._critic_only = compiled(self._step.critic_only, self._device)

    @torch.no_grad()
    def update(self, batch: Batch, learning_rate: float) -> dict[str, float]:
        """Optimise on one batch.

        Args:
            batch: B samples of the current policy.
            learning_rate: of the policy, now; the critic's keeps its proportion to it.

        Returns:
            metrics by name: losses and the kept fraction as means over the minibatch steps that
            were applied, ``policy_steps`` and ``critic_steps`` as counts of them, ``stopped`` 1.0
            when the policy's optimisation ended early.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite.
        """
        config = self.config
        critic_rate = config.critic_learning_rate or config.learning_rate
        rates = [learning_rate, learning_rate * critic_rate / config.learning_rate]
        rate = torch.tensor(rates, device=batch.valid.device)
        if config.advantage_normalization == "batch":
            batch = batch._replace(advantage=normalize(batch.advantage, batch.valid))
        self.switches.policy.fill_(True)
        reports = list(self._minibatch_steps(batch, rate))
        return self._summarize(torch.stack(reports).cpu())

    def _minibatch_steps(self, batch: Batch, rate: Tensor) -> Iterator[Tensor]:
        config = self.config
        critic_epochs = config.epochs if config.critic_epochs is None else config.critic_epochs
        # A generator for each update: how many epochs one took does not change the next.
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(max(config.epochs, critic_epochs)):
            if epoch == config.epochs:
                self.switches.policy.fill_(False)
            self.switches.critic.fill_(epoch < critic_epochs)
            minibatches = shuffled_minibatches(batch.valid, config.minibatch_size, generator)
            for index, real in zip(*minibatches, strict=True):
                if not self.watch_stop or self.switches.policy:
                    yield self._joint(self.state, rate, self.switches, batch, index, real)
                elif config.critic_epochs is not None and epoch < critic_epochs:
                    yield self._critic_only(self.critic_state, rate, batch, index, real)
                else:
                    return

    def _summarize(self, reports: Tensor) -> dict[str, float]:
        for name, column in zip(REPORT, reports.unbind(1), strict=True):
            if not column.isfinite().all():
                raise NonFiniteError(f"{name} is not finite")
        report = dict(zip(REPORT, reports.double().unbind(1), strict=True))
        policy_on, critic_on = report["policy_stepped"], report["critic_stepped"]
        return {
            "policy_loss": _mean_where(report["policy_loss"], policy_on),
            "value_loss": _mean_where(report["value_loss"], critic_on),
            "kept_fraction": _mean_where(report["kept_fraction"], policy_on),
            "grad_norm": _mean_where(report["grad_norm"], policy_on),
            "policy_steps": float(policy_on.sum()),
            "critic_steps": float(critic_on.sum()),
            "stopped": float(report["stopped"].sum()),
        }


def _take(batch: Batch, index: Tensor, real: Tensor) -> Batch:
    """The samples at ``index`` (M,); padding becomes invalid."""
    mini = Batch(*(field.index_select(0, index) for field in batch))
    return mini._replace(valid=mini.valid & real)


def _mean_where(values: Tensor, on: Tensor) -> float:
    return float((values * on).sum() / on.sum().clamp(min=1))
