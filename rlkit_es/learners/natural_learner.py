"""Updates by a natural step: one of the policy along its natural gradient, within a trust region.

TRPO (Schulman et al., arXiv:1502.05477), and SD-TRPO (Lin et al., arXiv:2302.02299) with a mask.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.masks import keep_all_if_empty
from rlkit_es.core.trust_region import (
    LineSearch,
    MatrixVectorProduct,
    backtracking_line_search,
    conjugate_gradient,
    gauss_newton_product,
    trust_region_step,
)
from rlkit_es.errors import diverged
from rlkit_es.learners.adam import moments
from rlkit_es.learners.base import Learner
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.critic_fit import CriticFit
from rlkit_es.learners.estimates import Estimator
from rlkit_es.learners.minibatch_loss import Minibatch
from rlkit_es.learners.minibatch_step import MinibatchStep
from rlkit_es.learners.recipes import Slots
from rlkit_es.learners.requests import Requests
from rlkit_es.learners.schedules import scheduled_settings
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch, PolicyStats


class _Start(NamedTuple):
    """The policy where the step begins, with the graph that its derivatives are taken through."""

    parameters: Tensor  # (P,) leaf
    stats: PolicyStats  # (B,) with gradients; every ratio is 1
    fisher_product: MatrixVectorProduct
    sizes: list[int]  # samples of each rank, S in sum
    max_kl: float  # of this step
    scheduled: dict[str, Tensor]  # () each: as of `StepInputs`


class NaturalLearner(Learner):
    """Carries out one recipe's update on batch after batch.

    Args:
        policy: the parameters of its actor and of its critic move to a flat vector each, which this
            object owns from then on.
        slots: the recipe, filled in.
        config: the hyperparameters.
        generator: a CPU generator for the order of the critic's samples and the states of the Fisher
            information.
        ranks: that update together, as of `AdamLearner`.
    """

    def __init__(
        self,
        policy: ActorCritic,
        slots: Slots,
        config: UpdateConfig,
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.generator = generator
        self.slots = slots
        step = MinibatchStep(policy, slots, config, ranks)
        self._loss = step.loss
        self.parameters = step.actor.gather()  # (P,) of the policy
        step.actor.adopt(self.parameters)
        self.critic = CriticFit(step, config, generator)

    def compile(self, *, required: bool = True) -> None:
        """Compile the critic's minibatch loop; the policy's own step is large operations already."""
        self.critic.compile(required=required)

    def state_tensors(self) -> dict[str, Tensor]:
        return moments(self.critic.state)

    @torch.no_grad()
    def updating(
        self, batch: Batch, learning_rate: float, remaining: float, estimator: Estimator | None = None
    ) -> Requests[dict[str, float]]:
        """As of `Learner`; no estimator is needed, as the one step is made before the critic changes.

        ``policy_loss`` is minus the surrogate after the step, ``grad_norm`` and ``kept_fraction`` are of
        the step, ``policy_steps`` is 1.0 where one was accepted; where ``line_search_failed`` is 1.0 none
        was after ``line_search_trials``, and the parameters are bitwise what they were. ``value_loss``
        and ``critic_steps`` are the critic's.
        """
        samples = Batch(*(field[batch.valid] for field in batch))
        sizes = self.ranks.sizes(len(samples.valid))
        max_kl = scheduled_settings(self.config, remaining).get("max_kl", self.config.max_kl)
        search, gradient_norm, kept = self._step_policy(samples, sizes, max_kl)
        if search.accepted:
            self.parameters.copy_(search.parameters)
        if self.config.mask_value:
            own = self.ranks.own(keep_all_if_empty(kept, torch.ones_like(kept)), sizes)
            batch = batch._replace(valid=batch.valid.masked_scatter(batch.valid, own))
        *_, critic_rate = self.config.rates(learning_rate)
        value_loss, critic_steps = yield from self.critic.fit(batch, critic_rate)
        return {
            "policy_loss": float(-search.surrogate),
            "value_loss": value_loss,
            "kept_fraction": float(masked_mean(kept.to(gradient_norm.dtype), torch.ones_like(kept))),
            "grad_norm": float(gradient_norm),
            "policy_steps": float(search.accepted),
            "critic_steps": critic_steps,
            "line_search_trials": float(search.trials),
            "line_search_failed": float(search.trials > 0 and not search.accepted),
            "learning_rate": learning_rate,
        }

    def _step_policy(self, own: Batch, sizes: list[int], max_kl: float) -> tuple[LineSearch, Tensor, Tensor]:
        """Where the line search ended, the gradient's norm () and which samples (S,) the mask kept.

        Args:
            own: (B,) valid samples of this rank.
            sizes: B of each rank, S in sum.
            max_kl: the trust region.
        """
        mini = Minibatch(own, self.ranks.gather(own.advantage, sizes), self.ranks.gather(own.valid, sizes))
        if not sum(sizes):
            zero = self.parameters.new_zeros(())
            return LineSearch(self.parameters, zero, accepted=False, trials=0), zero, mini.valid
        start = self._begin(own, sizes, max_kl)
        advantage, kept, used = self._advantage(mini, mini.valid), mini.valid, mini.valid
        gradient = self._gradient(start, advantage, used)
        step = self._full_step(start, gradient)
        if self.slots.may_drop:
            # The trial step is the full one, and nothing is moved for it: no line search, no undoing.
            stats = self._loss.gathered(self._loss.own_stats(self.parameters + step, own), sizes)
            kept = self._loss.mask(stats, advantage, mini, start.scheduled)
            used = keep_all_if_empty(kept, mini.valid)
            if self.config.mask_value:
                advantage = self._advantage(mini, used)
            gradient = self._gradient(start, advantage, used)
            step = self._full_step(start, gradient)
        return self._search(start, mini, advantage, used, step), gradient.norm(), kept

    def _begin(self, own: Batch, sizes: list[int], max_kl: float) -> _Start:
        """One forward pass with gradients on, over all states."""
        parameters = self.parameters.clone().requires_grad_()
        observation = own.observation
        states = sum(sizes)
        with torch.enable_grad():
            output = self._loss.actor(parameters, observation).parameters
            fisher_output = output
            stats = policy_stats(self._loss.distribution, output, own.behaviour, own.action)
            if self.config.fisher_fraction < 1:
                some = observation[self._some_of(len(observation))]
                fisher_output = self._loss.actor(parameters, some).parameters
                states = sum(map(self._fraction_of, sizes))
        # Dropped samples stay in the trust region: their states are visited all the same.
        metric = self._loss.distribution.fisher(fisher_output.detach()) / states
        product = gauss_newton_product(fisher_output, parameters, metric)
        scheduled = {"max_kl": metric.new_tensor(max_kl)}
        return _Start(parameters, stats, lambda v: self.ranks.sum(product(v)), sizes, max_kl, scheduled)

    def _some_of(self, count: int) -> Tensor:
        """Indices of `fisher_fraction` of ``count`` samples."""
        order = torch.randperm(count, generator=self.generator)
        return order[: self._fraction_of(count)].to(self.parameters.device)

    def _fraction_of(self, count: int) -> int:
        return math.ceil(self.config.fisher_fraction * count)

    def _advantage(self, mini: Minibatch, samples: Tensor) -> Tensor:
        """(S,) advantages; the whole batch is the one minibatch of this step."""
        if self.config.advantage_normalization == "none":
            return mini.advantage
        return normalize(mini.advantage, samples)

    def _surrogate(self, start: _Start, stats: PolicyStats, advantage: Tensor, keep: Tensor) -> Tensor:
        """() this rank's share of the mean over the kept samples, of its ``stats`` (B,)."""
        own_advantage, own_keep = self.ranks.own(advantage, start.sizes), self.ranks.own(keep, start.sizes)
        values = self.slots.surrogate(stats, own_advantage, scheduled=start.scheduled)
        return masked_mean(values, own_keep, keep)

    def _gradient(self, start: _Start, advantage: Tensor, keep: Tensor) -> Tensor:
        """(P,) of the surrogate over the kept samples.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        with torch.enable_grad():
            surrogate = self._surrogate(start, start.stats, advantage, keep)
        (gradient,) = torch.autograd.grad(surrogate, start.parameters, retain_graph=True)
        gradient = self.ranks.sum(gradient)
        if not gradient.isfinite().all():
            raise diverged("the gradient of the surrogate")
        return gradient

    def _full_step(self, start: _Start, gradient: Tensor) -> Tensor:
        """(P,) along the natural gradient, to the boundary of the trust region's model."""

        def damped(v: Tensor) -> Tensor:
            return start.fisher_product(v) + self.config.cg_damping * v

        direction = conjugate_gradient(damped, gradient, iterations=self.config.cg_iterations)
        return trust_region_step(damped, direction, start.max_kl)

    def _search(
        self, start: _Start, mini: Minibatch, advantage: Tensor, keep: Tensor, step: Tensor
    ) -> LineSearch:
        """Kept samples make the surrogate, all samples the KL."""

        def evaluate(parameters: Tensor) -> tuple[Tensor, Tensor]:
            stats = self._loss.own_stats(parameters, mini.own)
            surrogate = self._surrogate(start, stats, advantage, keep)
            kl = masked_mean(stats.kl, mini.own.valid, mini.valid)
            surrogate, kl = self.ranks.sum(torch.stack([surrogate, kl])).unbind()
            return surrogate, kl

        return backtracking_line_search(
            evaluate,
            self.parameters,
            step,
            max_kl=start.max_kl,
            shrink=self.config.line_search_shrink,
            trials=self.config.line_search_steps,
        )
