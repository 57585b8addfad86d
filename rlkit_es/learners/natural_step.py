"""The natural step: one step of the policy along its natural gradient, within a trust region.

TRPO (Schulman et al., arXiv:1502.05477), and SD-TRPO (Lin et al., arXiv:2302.02299) with a mask.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.trust_region import (
    LineSearch,
    MatrixVectorProduct,
    backtracking_line_search,
    conjugate_gradient,
    gauss_newton_product,
    trust_region_step,
)
from rlkit_es.errors import NonFiniteError
from rlkit_es.learners.adam import moments
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.critic_fit import CriticFit
from rlkit_es.learners.minibatch_step import MinibatchStep
from rlkit_es.learners.recipes import Slots
from rlkit_es.learners.schedules import scheduled_settings
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import Batch, PolicyStats


class _Start(NamedTuple):
    """The policy where the step begins, with the graph that its derivatives are taken through."""

    parameters: Tensor  # (P,) leaf
    stats: PolicyStats  # (B,) with gradients; every ratio is 1
    fisher_product: MatrixVectorProduct


class NaturalStep:
    """Carries out one recipe's update on batch after batch.

    Args:
        policy: the parameters of its actor and of its critic move to a flat vector each, which this
            object owns from then on.
        slots: the recipe, filled in.
        config: the hyperparameters.
        generator: a CPU generator for the order of the critic's samples and the states of the Fisher
            information.
    """

    def __init__(
        self, policy: ActorCritic, slots: Slots, config: UpdateConfig, generator: torch.Generator
    ) -> None:
        self.config = config
        self.generator = generator
        self.slots = slots
        step = MinibatchStep(policy, slots, config)
        self._loss = step.loss
        self.parameters = step.actor.gather()  # (P,) of the policy
        step.actor.adopt(self.parameters)
        self.critic = CriticFit(step, config, generator)

    def compile(self) -> None:
        """Compile the critic's minibatch loop; the policy's own step is large operations already."""
        self.critic.compile()

    def state_tensors(self) -> dict[str, Tensor]:
        return moments(self.critic.state)

    @torch.no_grad()
    def update(self, batch: Batch, learning_rate: float, remaining: float = 1.0) -> dict[str, float]:
        """Step the policy once and fit the critic.

        Args:
            batch: B samples of the current policy.
            learning_rate: scheduled; the critic's keeps its proportion to it.
            remaining: of training, from 1 at its start to 0: what a scheduled trust region goes by.

        Returns:
            metrics by name: ``policy_loss`` minus the surrogate after the step, ``grad_norm`` and
            ``kept_fraction`` of the step, ``policy_steps`` 1.0 where a step was accepted,
            ``line_search_trials``, ``line_search_failed`` 1.0 where none was, and the parameters are
            bitwise what they were; the critic's ``value_loss`` and ``critic_steps``.

        Raises:
            NonFiniteError: the gradient or a loss is NaN or infinite.
        """
        samples = Batch(*(field[batch.valid] for field in batch))
        max_kl = scheduled_settings(self.config, remaining).get("max_kl", self.config.max_kl)
        search, gradient_norm, kept = self._step_policy(samples, max_kl)
        if search.accepted:
            self.parameters.copy_(search.parameters)
        if self.config.mask_value:
            batch = batch._replace(valid=batch.valid.masked_scatter(batch.valid, kept))
        value_loss, critic_steps = self.critic.fit(batch, self.config.critic_rate(learning_rate))
        return {
            "policy_loss": float(-search.surrogate),
            "value_loss": value_loss,
            "kept_fraction": float(masked_mean(kept.to(gradient_norm.dtype), samples.valid)),
            "grad_norm": float(gradient_norm),
            "policy_steps": float(search.accepted),
            "critic_steps": critic_steps,
            "line_search_trials": float(search.trials),
            "line_search_failed": float(search.trials > 0 and not search.accepted),
            "learning_rate": learning_rate,
        }

    def _step_policy(self, batch: Batch, max_kl: float) -> tuple[LineSearch, Tensor, Tensor]:
        """Where the line search ended, the gradient's norm () and the samples (B,) that were kept."""
        if not len(batch.valid):
            zero = self.parameters.new_zeros(())
            return LineSearch(self.parameters, zero, accepted=False, trials=0), zero, batch.valid
        start = self._begin(batch)
        advantage, keep = self._advantage(batch, batch.valid), batch.valid
        gradient = self._gradient(start, advantage, keep)
        step = self._full_step(start, gradient, max_kl)
        if self.slots.may_drop:
            # The trial step is the full one, and nothing is moved for it: no line search, no undoing.
            stats = self._loss.stats(self.parameters + step, batch)
            keep = self._loss.mask(stats, advantage, batch, {"max_kl": step.new_tensor(max_kl)})
            if self.config.mask_value:
                advantage = self._advantage(batch, keep)
            gradient = self._gradient(start, advantage, keep)
            step = self._full_step(start, gradient, max_kl)
        return self._search(batch, advantage, keep, step, max_kl), gradient.norm(), keep

    def _begin(self, batch: Batch) -> _Start:
        """One forward pass with gradients on, over all states."""
        parameters = self.parameters.clone().requires_grad_()
        observation = batch.observation
        with torch.enable_grad():
            output, _ = self._loss.actor(parameters, observation)
            fisher_output = output
            stats = policy_stats(self._loss.distribution, output, batch.behaviour, batch.action)
            if self.config.fisher_fraction < 1:
                some = observation[self._some_of(len(observation))]
                fisher_output, _ = self._loss.actor(parameters, some)
        # Dropped samples stay in the trust region: their states are visited all the same.
        metric = self._loss.distribution.fisher(fisher_output.detach()) / len(fisher_output)
        return _Start(parameters, stats, gauss_newton_product(fisher_output, parameters, metric))

    def _some_of(self, count: int) -> Tensor:
        """Indices of `fisher_fraction` of ``count`` samples."""
        order = torch.randperm(count, generator=self.generator)
        return order[: math.ceil(self.config.fisher_fraction * count)].to(self.parameters.device)

    def _advantage(self, batch: Batch, samples: Tensor) -> Tensor:
        """(B,) advantages; the whole batch is the one minibatch of this step."""
        if self.config.advantage_normalization == "none":
            return batch.advantage
        return normalize(batch.advantage, samples)

    def _gradient(self, start: _Start, advantage: Tensor, keep: Tensor) -> Tensor:
        """(P,) of the surrogate over the kept samples.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        with torch.enable_grad():
            surrogate = masked_mean(self.slots.surrogate(start.stats, advantage), keep)
        (gradient,) = torch.autograd.grad(surrogate, start.parameters, retain_graph=True)
        if not gradient.isfinite().all():
            raise NonFiniteError("the gradient of the surrogate is not finite")
        return gradient

    def _full_step(self, start: _Start, gradient: Tensor, max_kl: float) -> Tensor:
        """(P,) along the natural gradient, to the boundary of the trust region's model."""

        def damped(v: Tensor) -> Tensor:
            return start.fisher_product(v) + self.config.cg_damping * v

        direction = conjugate_gradient(damped, gradient, iterations=self.config.cg_iterations)
        return trust_region_step(damped, direction, max_kl)

    def _search(
        self, batch: Batch, advantage: Tensor, keep: Tensor, step: Tensor, max_kl: float
    ) -> LineSearch:
        """Kept samples make the surrogate, all samples the KL."""

        def evaluate(parameters: Tensor) -> tuple[Tensor, Tensor]:
            stats = self._loss.stats(parameters, batch)
            surrogate = masked_mean(self.slots.surrogate(stats, advantage), keep)
            return surrogate, masked_mean(stats.kl, batch.valid)

        return backtracking_line_search(
            evaluate,
            self.parameters,
            step,
            max_kl=max_kl,
            shrink=self.config.line_search_shrink,
            trials=self.config.line_search_steps,
        )
