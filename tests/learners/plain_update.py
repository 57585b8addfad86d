"""The update once more, written plainly with autograd and torch.optim: what AdamStep must agree with."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, distributions

from rlkit_es.core.minibatches import shuffled_minibatches
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import Batch


class Counts(NamedTuple):
    policy_steps: int
    critic_steps: int
    stopped: bool
    deviations: list[float]  # of each minibatch where the policy was still going


class PlainUpdate:
    """PPO, ESPO and their SD variants: actor and critic with one optimiser, gradients clipped together."""

    def __init__(self, algo: str, policy: ActorCritic, config: UpdateConfig, seed: int = 0) -> None:
        self.algo, self.policy, self.config = algo, policy, config
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = [*policy.actor.parameters(), *policy.critic.parameters()]
        groups = [{"params": list(policy.actor.parameters())}, {"params": list(policy.critic.parameters())}]
        self.optimizer = torch.optim.Adam(groups, lr=1.0, eps=1e-5)

    def update(self, batch: Batch, learning_rate: float) -> Counts:
        config = self.config
        critic_rate = config.critic_learning_rate or config.learning_rate
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.param_groups[1]["lr"] = learning_rate * critic_rate / config.learning_rate
        policy_steps = critic_steps = 0
        deviations: list[float] = []
        stopped = False
        for epoch, mini in self._minibatches(batch):
            policy_on = epoch < config.epochs and not stopped
            if policy_on and self._may_stop and config.stop_when == "before":
                deviations.append(self._deviation(mini))
                stopped = deviations[-1] >= config.deviation_threshold
                policy_on = not stopped
            critic_on = policy_on if config.critic_epochs is None else epoch < config.critic_epochs
            self._step(mini, policy_on, critic_on)
            policy_steps += policy_on
            critic_steps += critic_on
            if policy_on and self._may_stop and config.stop_when == "after":
                deviations.append(self._deviation(mini))
                stopped = deviations[-1] >= config.deviation_threshold
        return Counts(policy_steps, critic_steps, stopped, deviations)

    @property
    def _may_stop(self) -> bool:
        return self.algo in ("espo", "sd_espo")

    def _minibatches(self, batch: Batch) -> Iterator[tuple[int, Batch]]:
        """AdamStep's order: one seed drawn for each update, one shuffle for each epoch."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(max(self.config.epochs, self.config.critic_epochs or 0)):
            index, real, *_ = shuffled_minibatches(batch.valid, self.config.minibatch_size, generator)
            for chosen, used in zip(index, real, strict=True):
                if used.any():
                    yield epoch, Batch(*(field[chosen[used]] for field in batch))

    def _log_ratio(self, mini: Batch) -> Tensor:
        new = self.policy.actor(mini.observation)
        return self._family(new).log_prob(mini.action) - self._family(mini.behaviour).log_prob(mini.action)

    def _family(self, parameters: Tensor) -> distributions.Distribution:
        if self.policy.action.discrete:
            return distributions.Categorical(logits=parameters)
        mean, log_std = parameters.chunk(2, -1)
        return distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)

    @torch.no_grad()
    def _deviation(self, mini: Batch) -> float:
        return float((self._log_ratio(mini).exp() - 1).abs().mean())

    def _step(self, mini: Batch, policy_on: bool, critic_on: bool) -> None:
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        if policy_on:
            a = mini.advantage
            a = (a - a.mean()) / (a.std(correction=0) + 1e-8)
            r = self._log_ratio(mini).exp()
            objective = r * a
            if self.algo in ("ppo", "sd_ppo"):
                objective = torch.min(r * a, r.clamp(1 - config.clip_range, 1 + config.clip_range) * a)
            if self.algo in ("sd_ppo", "sd_espo"):
                near = (r - 1).abs() < config.dropout_threshold
                objective = objective[near] if near.any() else objective
            entropy = self._family(self.policy.actor(mini.observation)).entropy().mean()
            (-objective.mean() - config.entropy_coefficient * entropy).backward()
        if critic_on:
            value = self.policy.critic(mini.observation)
            (config.value_coefficient * (value - mini.value_target).square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
