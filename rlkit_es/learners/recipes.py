"""The table of algorithms: each is a choice for every slot.

A slot is a pure function of `rlkit_es.core`. Its first two arguments are the data; the names of the
others are fields of `UpdateConfig`. So a new idea is one function and one line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from rlkit_es.core import masks, stops, surrogates
from rlkit_es.errors import look_up
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.types import PolicyStats

# (stats, advantage or valid) -> Tensor
BoundSlot = Callable[[PolicyStats, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """One line of the table; `defaults` are the hyperparameters in which it differs from the rest."""

    surrogate: str
    mask: str = "keep_all"
    stop: str = "never"
    defaults: Mapping[str, Any] = field(default_factory=dict)


RECIPES: Mapping[str, Recipe] = {
    "ppo": Recipe(surrogate="clip"),
    "espo": Recipe(surrogate="ratio", stop="ratio_deviation"),
    "sd_ppo": Recipe(surrogate="clip", mask="ratio_within"),
    "sd_espo": Recipe(surrogate="ratio", mask="ratio_within", stop="ratio_deviation"),
}

SURROGATES: Mapping[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (surrogates.ratio, surrogates.clip, surrogates.spo)
}
MASKS: Mapping[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        masks.keep_all,
        masks.ratio_within,
        masks.ratio_below,
        masks.ratio_above,
        masks.ratio_log_symmetric,
        masks.kl_below,
    )
}
STOPS: Mapping[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (stops.never, stops.ratio_deviation, stops.mean_kl)
}


class Slots(NamedTuple):
    """A recipe with its hyperparameters filled in."""

    surrogate: BoundSlot  # (stats, advantage) -> (M,) to be maximised
    mask: BoundSlot  # (stats, advantage) -> (M,) bool
    stop: BoundSlot  # (stats, valid) -> () bool
    may_stop: bool  # False: the stop need not be measured


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; the message names the closest.
    """
    return look_up("algorithm", name, RECIPES)


def fill_slots(recipe: Recipe, config: UpdateConfig) -> Slots:
    """The recipe's slots, or those that ``config`` puts in their place, bound to ``config``."""
    stop = config.stop or recipe.stop
    return Slots(
        surrogate=_bind(look_up("surrogate", config.surrogate or recipe.surrogate, SURROGATES), config),
        mask=_bind(look_up("mask", config.mask or recipe.mask, MASKS), config),
        stop=_bind(look_up("stop", stop, STOPS), config),
        may_stop=stop != "never",
    )


def _bind(slot: Callable[..., Tensor], config: UpdateConfig) -> BoundSlot:
    hyperparameters = list(inspect.signature(slot).parameters)[2:]
    return partial(slot, **{name: getattr(config, name) for name in hyperparameters})
