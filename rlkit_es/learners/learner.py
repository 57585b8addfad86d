"""What carries out a recipe's updates, whatever its kind of step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.estimates import Estimator
from rlkit_es.learners.natural_learner import NaturalLearner
from rlkit_es.learners.recipes import fill_slots, find_recipe
from rlkit_es.learners.requests import Requests
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch


class Learner(Protocol):
    """Changes a policy and its critic, batch by batch."""

    def update(
        self, batch: Batch, learning_rate: float, remaining: float = 1.0, estimator: Estimator | None = None
    ) -> dict[str, float]:
        """Optimise on one batch; returns metrics by name."""
        ...

    def updating(
        self, batch: Batch, learning_rate: float, remaining: float, estimator: Estimator | None = None
    ) -> Requests[dict[str, float]]:
        """`update`, whose loops over minibatches are asked for."""
        ...

    def compile(self, *, required: bool = True) -> None:
        """Compile what is worth it; it happens at the first update.

        Without ``required`` the update stays eager, with a warning, where that is not possible.
        """
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """All that the next update depends on beside the policy and the generator, by name.

        The tensors themselves: what is copied into them is what the learner goes on from.
        """
        ...


def make_learner(
    algo: str,
    policy: ActorCritic,
    config: UpdateConfig,
    generator: torch.Generator,
    *,
    watch_stop: bool = True,
    ranks: Ranks = ALONE,
) -> Learner:
    """The learner of the recipe of that name.

    Args:
        algo: of `recipes.RECIPES`.
        policy: its parameters move to flat vectors that the learner owns.
        config: the hyperparameters.
        generator: a CPU generator for the order of the samples.
        watch_stop: as of `AdamLearner`.
        ranks: as of `AdamLearner`.

    Raises:
        UserError: there is no such recipe, or a setting cannot apply to it.
    """
    slots = fill_slots(find_recipe(algo), config)
    if slots.step == "natural":
        return NaturalLearner(policy, slots, config, generator, ranks)
    return AdamLearner(policy, slots, config, generator, watch_stop=watch_stop, ranks=ranks)
