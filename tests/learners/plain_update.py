"""The update once more, written plainly with autograd and torch.optim: what AdamLearner must agree with."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, distributions

from rlkit_es.core.minibatches import shuffled_minibatches
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.networks import Encoded
from rlkit_es.types import Batch


class Counts(NamedTuple):
    policy_steps: int
    critic_steps: int
    stopped: bool
    deviations: list[float]  # of each minibatch where the policy was still going


class PlainUpdate:
    """The recipes with minibatch steps: one optimiser for actor and critic, gradients clipped together."""

    def __init__(self, algo: str, policy: ActorCritic, config: UpdateConfig, seed: int = 0) -> None:
        self.algo, self.policy, self.config = algo, policy, config
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = [*policy.actor.parameters(), *policy.critic.parameters()]
        log_std = [p for name, p in policy.actor.named_parameters() if name == "log_std"]
        network = [p for name, p in policy.actor.named_parameters() if name != "log_std"]
        groups = [{"params": part} for part in (log_std, network, list(policy.critic.parameters()))]
        self.optimizer = torch.optim.Adam(groups, lr=1.0, eps=1e-5)
        self.rate_scale = 1.0
        self.penalty = config.initial_penalty

    def update(self, batch: Batch, learning_rate: float, remaining: float = 1.0) -> Counts:
        config = self.config
        self.learning_rate = learning_rate
        threshold = config.deviation_threshold
        if config.deviation_threshold_schedule == "linear":
            threshold *= remaining
        policy_steps = critic_steps = 0
        deviations: list[float] = []
        stopped = False
        for epoch, mini in self._minibatches(batch):
            policy_on = epoch < config.epochs and not stopped
            if policy_on and self._may_stop and config.stop_when == "before":
                deviations.append(self._deviation(mini))
                stopped = deviations[-1] >= threshold
                policy_on = not stopped
            critic_on = policy_on if config.critic_epochs is None else epoch < config.critic_epochs
            self._step(mini, policy_on, critic_on)
            policy_steps += policy_on
            critic_steps += critic_on
            if policy_on and self._may_stop and config.stop_when == "after":
                deviations.append(self._deviation(mini))
                stopped = deviations[-1] >= threshold
        return Counts(policy_steps, critic_steps, stopped, deviations)

    @property
    def _may_stop(self) -> bool:
        return self.algo in ("espo", "sd_espo")

    def _minibatches(self, batch: Batch) -> Iterator[tuple[int, Batch]]:
        """AdamLearner's order: one seed drawn for each update, one shuffle for each epoch."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(max(self.config.epochs, self.config.critic_epochs or 0)):
            index, real, *_ = shuffled_minibatches(batch.valid, self.config.minibatch_size, generator)
            for chosen, used in zip(index, real, strict=True):
                if used.any():
                    yield epoch, Batch(*(field[chosen[used]] for field in batch))

    def _log_ratio(self, mini: Batch, whole: bool = True) -> Tensor:
        """``whole``: nothing is taken from its gradient."""
        new = self.policy.actor(mini.observation) if whole else self._parameters(mini.observation)
        return self._family(new).log_prob(mini.action) - self._family(mini.behaviour).log_prob(mini.action)

    def _parameters(self, x: Tensor) -> Tensor:
        """Of the action's distribution; its last layer hears less of what all inputs have in common."""
        actor, common = self.policy.actor, self.config.common_gradient
        if common == 1:
            return actor(x)
        network = actor.network
        if isinstance(network, Encoded):
            x, network = network.encoder(x), network.network
        *hidden, (weight, bias) = zip(*[iter(network.parameters())] * 2, strict=True)
        for hidden_weight, hidden_bias in hidden:
            x = torch.tanh(x @ hidden_weight.T + hidden_bias)
        mean = x.mean(0)
        apart, alike = (x - mean) @ weight.T, mean @ weight.T + bias
        return actor.parameters_of(apart + common * alike + (1 - common) * alike.detach())

    def _family(self, parameters: Tensor) -> distributions.Distribution:
        if self.policy.action.discrete:
            return distributions.Categorical(logits=parameters)
        mean, log_std = parameters.chunk(2, -1)
        return distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)

    @torch.no_grad()
    def _deviation(self, mini: Batch) -> float:
        return float((self._log_ratio(mini).exp() - 1).abs().mean())

    def _step(self, mini: Batch, policy_on: bool, critic_on: bool) -> None:
        keep = torch.ones_like(mini.valid)
        if policy_on and (self.algo in ("sd_ppo", "sd_espo") or self.config.mask == "ratio_within"):
            keep = (
                self._mask_after_trial(mini, critic_on)
                if self.config.mask_at == "trial"
                else self._mask(mini)
            )
        if policy_on and self.config.learning_rate_schedule == "adaptive_kl":
            self._adapt_rate(mini)
        penalty = self.penalty
        if policy_on and self.algo == "r2vpo":
            with torch.no_grad():
                violation = float(self._ratio_variance(mini)) - self.config.constraint_limit
            self.penalty = max(0.0, penalty + self.config.dual_learning_rate * violation)
        self.optimizer.zero_grad(set_to_none=True)
        if policy_on:
            self._policy_loss(mini, keep, penalty).backward()
        if critic_on:
            samples = keep if self.config.mask_value else torch.ones_like(keep)
            self._value_loss(mini, samples, policy_on).backward()
        self._descend()

    def _value_loss(self, mini: Batch, samples: Tensor, policy_on: bool) -> Tensor:
        error = self._value(mini, policy_on) - mini.value_target
        return self.config.value_coefficient * error[samples].square().mean()

    def _value(self, mini: Batch, policy_on: bool) -> Tensor:
        """An encoder that is shared with the policy moves with it, and stays when it stays."""
        seen = self.policy.critic_input(mini.observation)
        value: Tensor = self.policy.critic(seen if policy_on else seen.detach())
        return value

    def _policy_loss(self, mini: Batch, keep: Tensor, penalty: float) -> Tensor:
        config = self.config
        a = mini.advantage
        normal = a[keep] if config.mask_value else a
        a = (a - normal.mean()) / (normal.std(correction=0) + 1e-8)
        r = self._log_ratio(mini, whole=False).exp()
        objective = r * a
        if self.algo in ("ppo", "sd_ppo", "ppo_adaptive"):
            objective = torch.min(r * a, r.clamp(1 - config.clip_range, 1 + config.clip_range) * a)
        if self.algo == "spo":
            objective = r * a - a.abs() * (r - 1) ** 2 / (2 * config.clip_range)
        entropy = self._family(self.policy.actor(mini.observation)).entropy().mean()
        loss = -objective[keep].mean() - config.entropy_coefficient * entropy
        if self.algo == "r2vpo":
            loss = loss + penalty * self._ratio_variance(mini)
        return loss

    def _descend(self) -> None:
        own = self.config.learning_rate
        rates = self.config.log_std_learning_rate or own, own, self.config.critic_learning_rate or own
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = self.learning_rate * self.rate_scale * rate / own
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()

    @torch.no_grad()
    def _mask(self, mini: Batch) -> Tensor:
        near = (self._log_ratio(mini).exp() - 1).abs() < self.config.dropout_threshold
        return near if near.any() else torch.ones_like(near)

    def _mask_after_trial(self, mini: Batch, critic_on: bool) -> Tensor:
        """Step on all samples, look, and put everything back."""
        parameters = [p.detach().clone() for p in self.parameters]
        optimizer = copy.deepcopy(self.optimizer.state_dict())
        self.optimizer.zero_grad(set_to_none=True)
        everything = torch.ones_like(mini.valid)
        self._policy_loss(mini, everything, self.penalty).backward()
        if critic_on:
            self._value_loss(mini, everything, policy_on=True).backward()
        self._descend()
        keep = self._mask(mini)
        with torch.no_grad():
            for parameter, before in zip(self.parameters, parameters, strict=True):
                parameter.copy_(before)
        self.optimizer.load_state_dict(optimizer)
        return keep

    @torch.no_grad()
    def _adapt_rate(self, mini: Batch) -> None:
        old, new = self._family(mini.behaviour), self._family(self.policy.actor(mini.observation))
        kl, rate = float(distributions.kl_divergence(old, new).mean()), self.config.learning_rate
        if kl > 2 * self.config.max_kl:
            self.rate_scale = max(1e-5, rate * self.rate_scale / 1.5) / rate
        elif 0 < kl < self.config.max_kl / 2:
            self.rate_scale = min(1e-2, rate * self.rate_scale * 1.5) / rate

    def _ratio_variance(self, mini: Batch) -> Tensor:
        return ((self._log_ratio(mini).exp() - 1) ** 2).mean()
