"""Updates by Adam: minibatch ascent on the recipe's surrogate, with the critic beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlkit_es.core.losses import normalize
from rlkit_es.errors import UserError
from rlkit_es.learners.adam import AdamState, init_state, moments, store
from rlkit_es.learners.base import Learner
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.estimates import Estimator
from rlkit_es.learners.loops import Loop, PythonLoop, Step, fast_loop
from rlkit_es.learners.minibatch_step import (
    REPORT,
    Adaptive,
    MinibatchStep,
    StepInputs,
    StepState,
    summarize,
)
from rlkit_es.learners.recipes import Slots
from rlkit_es.learners.requests import LoopCall, Requests
from rlkit_es.learners.samples import samples_of_all, shuffled
from rlkit_es.learners.schedules import scheduled_settings
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch


class AdamLearner(Learner):
    """Carries out one recipe's update on batch after batch.

    Args:
        policy: its parameters move to one flat vector, which this object owns from then on.
        slots: the recipe, filled in.
        config: the hyperparameters.
        generator: a CPU generator for the order of the samples.
        watch_stop: look at the stop after each minibatch and save what need not be computed. False
            leaves the decision on the device until the epoch ends, so that the host does not wait in
            between; the parameters that result are the same.
        ranks: that update together, each with a batch of its own; ``config.minibatch_size`` is the share
            of each.
    """

    def __init__(
        self,
        policy: ActorCritic,
        slots: Slots,
        config: UpdateConfig,
        generator: torch.Generator,
        *,
        watch_stop: bool = True,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.generator = generator
        self._step = MinibatchStep(policy, slots, config, ranks)
        actor, critic = self._step.actor, self._step.critic
        self.state = init_state(torch.cat([actor.gather(), critic.gather()]))
        actor.adopt(self.state.parameters[: actor.size])
        critic.adopt(self.state.parameters[actor.size :])
        ones = self.state.parameters.new_ones(())
        self.adaptive = Adaptive(rate_scale=ones, penalty=ones * config.initial_penalty)
        # The critic's part, as views.
        parameters, exp_avg, exp_avg_sq = (vector[actor.size :] for vector in self.state[:3])
        self._critic_state = AdamState(parameters, exp_avg, exp_avg_sq, self.state.steps)
        self._joint_loop: Loop = PythonLoop(self._step.joint, watch=watch_stop)
        self._critic_loop: Loop = PythonLoop(self._step.critic_only, watch=False)
        self._policy = policy

    def compile(self, *, required: bool = True) -> None:
        """Compile the loops over minibatches, or record them on a GPU; each when it is first called."""
        if isinstance(self._joint_loop, PythonLoop):
            self.loop_by(lambda step: fast_loop(step, self.state.parameters.device, required=required))

    def loop_by(self, make: Callable[[Step], Loop]) -> None:
        """Have the loops over minibatches be of another kind from now on."""
        self._joint_loop = make(self._step.joint)
        self._critic_loop = make(self._step.critic_only)

    def state_tensors(self) -> dict[str, Tensor]:
        return {**moments(self.state), **self.adaptive._asdict()}

    @torch.no_grad()
    def updating(
        self, batch: Batch, learning_rate: float, remaining: float, estimator: Estimator | None = None
    ) -> Requests[dict[str, float]]:
        """As of `Learner`; the policy and the critic step together.

        Losses, ``grad_norm`` and ``kept_fraction`` are means over the minibatch steps that were applied,
        ``policy_steps`` and ``critic_steps`` counts of them, ``stopped`` is 1.0 where the policy's
        optimisation ended early; ``learning_rate``, the policy's, and ``penalty``, where there is a
        constraint, are those at the end.
        """
        config, device = self.config, batch.valid.device
        if not config.recompute_advantages:
            estimator = None
        elif estimator is None:
            raise UserError("recompute_advantages needs the batch's estimator: give the one of prepare_batch")
        inputs = StepInputs(
            learning_rate=torch.tensor(config.rates(learning_rate), device=device),
            critic_on=torch.ones((), dtype=torch.bool, device=device),
            scheduled={
                name: torch.tensor(value, device=device)
                for name, value in scheduled_settings(config, remaining).items()
            },
            batch=batch,
            everyones=(),
        )
        inputs = self._with_estimates(inputs, batch.advantage, batch.value_target)
        metrics = summarize((yield from self._run_epochs(inputs, estimator)))
        adapts = config.learning_rate_schedule == "adaptive_kl"
        metrics["learning_rate"] = learning_rate * (float(self.adaptive.rate_scale) if adapts else 1.0)
        if self._step.slots.constraint is not None:
            metrics["penalty"] = float(self.adaptive.penalty)
        return metrics

    def _with_estimates(self, inputs: StepInputs, advantage: Tensor, value_target: Tensor) -> StepInputs:
        """``inputs`` of which all ranks know the advantages, normalised if they are so over the batch."""
        batch = inputs.batch._replace(advantage=advantage, value_target=value_target)
        samples = samples_of_all(batch, self.ranks)
        if self.config.advantage_normalization == "batch":
            samples = samples._replace(advantage=normalize(*samples))
            batch = batch._replace(advantage=self.ranks.own(samples.advantage))
        return inputs._replace(batch=batch, everyones=() if self.ranks.size == 1 else samples)

    def _run_epochs(self, inputs: StepInputs, estimator: Estimator | None) -> Requests[Tensor]:
        """Every epoch of policy and critic; returns the report's sums."""
        config, valid = self.config, inputs.batch.valid
        critic_epochs = config.epochs if config.critic_epochs is None else config.critic_epochs
        # A generator for each update: how many epochs one took does not change the next.
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator().manual_seed(seed)
        going = torch.ones_like(inputs.critic_on)
        report = self.state.steps.new_zeros(len(REPORT))
        features: Tensor | None = None
        for epoch in range(max(config.epochs, critic_epochs)):
            if epoch and estimator is not None:
                inputs = self._with_estimates(inputs, *estimator(self._policy))
            index, real, count = shuffled(
                valid, inputs.everyones, config.minibatch_size, generator, self.ranks
            )
            inputs.critic_on.fill_(epoch < critic_epochs)
            at = 0
            # One look an epoch, which a GPU is waited for anyway, to deal the minibatches.
            if epoch < config.epochs and going:
                state = StepState(going, self.state, self.adaptive, report)
                at, state = yield LoopCall("joint", self._joint_loop, state, inputs, index, real, 0, count)
                store(state.optimizer, self.state)
                going, self.adaptive, report = state.going, state.adaptive, state.report
            if at < count and config.critic_epochs is not None and epoch < critic_epochs:
                # The policy stays as it is from here on, and with it an encoder that the critic shares.
                if features is None:
                    features = self._policy.critic_input(inputs.batch.observation)
                critic_inputs = inputs._replace(batch=inputs.batch._replace(observation=features))
                state = StepState(torch.ones_like(going), self._critic_state, self.adaptive, report)
                _, state = yield LoopCall(
                    "critic", self._critic_loop, state, critic_inputs, index, real, at, count
                )
                store(state.optimizer, self._critic_state)
                report = state.report
            elif at < count:
                break
        return report
