"""The learner that a recipe asks for."""

from __future__ import annotations

import torch

from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.base import Learner
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.natural_learner import NaturalLearner
from rlkit_es.learners.recipes import fill_slots, find_recipe, slot_names
from rlkit_es.learners.slot_check import check_slots
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.ranks import ALONE, Ranks


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
        UserError: there is no such recipe, a setting cannot apply to it, or a function of the user's own
            does not return what its slot takes.
    """
    recipe = find_recipe(algo)
    slots = fill_slots(recipe, config)
    check_slots(slots, slot_names(recipe, config), config.minibatch_size, like=next(policy.parameters()))
    if slots.step == "natural":
        return NaturalLearner(policy, slots, config, generator, ranks)
    return AdamLearner(policy, slots, config, generator, watch_stop=watch_stop, ranks=ranks)
