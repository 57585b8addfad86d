"""The critic on its own, for learners that move the policy by other means."""

from __future__ import annotations

import torch

from rlkit_es.learners.adam import init_state, store
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.loops import Loop, PythonLoop, fast_loop
from rlkit_es.learners.minibatch_step import (
    REPORT,
    Adaptive,
    MinibatchStep,
    StepInputs,
    StepState,
    summarize,
)
from rlkit_es.learners.requests import LoopCall, Requests
from rlkit_es.learners.samples import samples_of_all, shuffled
from rlkit_es.types import Batch


class CriticFit:
    """Minibatch Adam on the value loss for ``config.critic_epochs`` epochs.

    Args:
        step: of a policy whose critic's parameters move to one flat vector, owned from then on.
        config: the hyperparameters.
        generator: a CPU generator for the order of the samples.
    """

    def __init__(self, step: MinibatchStep, config: UpdateConfig, generator: torch.Generator) -> None:
        self.config = config
        self.generator = generator
        self.state = init_state(step.critic.gather())
        step.critic.adopt(self.state.parameters)
        self._step = step
        self._loop: Loop = PythonLoop(step.critic_only, watch=False)

    def compile(self, *, required: bool = True) -> None:
        """Compile the loop over minibatches, or record it on a GPU, when it is first called."""
        if isinstance(self._loop, PythonLoop):
            self._loop = fast_loop(self._step.critic_only, self.state.parameters.device, required=required)

    def fit(self, batch: Batch, learning_rate: float) -> Requests[tuple[float, float]]:
        """One update's epochs.

        Args:
            batch: B samples; those that are not valid are left out.
            learning_rate: Adam's.

        Returns:
            the value loss, a mean over the minibatch steps, and the number of these.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        parameters = self.state.parameters
        ones, going = parameters.new_ones(()), torch.ones_like(batch.valid[0])
        report = parameters.new_zeros(len(REPORT))
        ranks = self._step.ranks
        everyones = () if ranks.size == 1 else samples_of_all(batch, ranks)
        inputs = StepInputs(parameters.new_full((3,), learning_rate), going, {}, batch, everyones)
        for _ in range(self.config.critic_epochs or 0):
            index, real, count = shuffled(
                batch.valid, everyones, self.config.minibatch_size, self.generator, ranks
            )
            state = StepState(going, self.state, Adaptive(ones, ones), report)
            _, state = yield LoopCall("critic", self._loop, state, inputs, index, real, 0, count)
            store(state.optimizer, self.state)
            report = state.report
        metrics = summarize(report)
        return metrics["value_loss"], metrics["critic_steps"]
