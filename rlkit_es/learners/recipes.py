"""The table of algorithms: each is a choice for every slot.

A slot is a pure function of `rlkit_es.core`. Its first two arguments (of a constraint the first) are the
data; the names of the others are fields of `UpdateConfig`. So a new idea is one function and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from rlkit_es.errors import look_up
from rlkit_es.learners.applicability import check_applies
from rlkit_es.learners.config import UpdateConfig, settings_of
from rlkit_es.learners.slots import NO_CONSTRAINT, SLOTS


class BoundSlot(Protocol):
    """A slot with its hyperparameters filled in."""

    def __call__(self, *data: Any, scheduled: Mapping[str, Tensor] = ...) -> Tensor:
        """The slot's value; ``scheduled`` holds what is not what the configuration says, by name."""
        ...


@dataclass(frozen=True)
class Recipe:
    """One line of the table; `defaults` are the settings of a run in which it differs from the rest."""

    surrogate: str
    mask: str = "keep_all"
    stop: str = "never"
    constraint: str = "none"
    step: Literal["adam", "natural"] = "adam"
    defaults: Mapping[str, Any] = field(default_factory=dict)


# Longer pieces of fewer trajectories than elsewhere, a horizon that grows, a critic that is trusted more.
_GROWING_HORIZON: Mapping[str, Any] = {
    "num_envs": 16,
    "rollout_steps": 128,
    "horizon_growth": 2.0,
    "gae_lambda": 0.9,
}

_NATURAL: Mapping[str, Any] = {
    **_GROWING_HORIZON,
    "max_kl": 0.06,
    "max_kl_schedule": "linear",
    "learning_rate": 1e-3,
    "minibatch_size": 64,  # of the critic
}

# A critic that follows quickly, and advantages that follow it.
_QUICK_CRITIC: Mapping[str, Any] = {"critic_learning_rate": 1e-3, "recompute_advantages": True}

_CLIPPED: Mapping[str, Any] = {**_GROWING_HORIZON, **_QUICK_CRITIC}

# Small steps of the policy spend the deviation on many of them. Those of the log standard deviation, one
# number an action dimension, are larger, or it would hardly be learned.
_EARLY_STOPPING: Mapping[str, Any] = {
    **_QUICK_CRITIC,
    "learning_rate": 1e-4,
    "log_std_learning_rate": 5e-4,
}

RECIPES: Mapping[str, Recipe] = {
    "ppo": Recipe(surrogate="clip", defaults=_CLIPPED),
    "trpo": Recipe(surrogate="ratio", step="natural", defaults=_NATURAL),
    "espo": Recipe(surrogate="ratio", stop="ratio_deviation", defaults=_EARLY_STOPPING),
    "sd_ppo": Recipe(surrogate="clip", mask="ratio_within", defaults=_CLIPPED),
    "sd_trpo": Recipe(
        surrogate="ratio",
        mask="kl_within",
        step="natural",
        defaults={**_NATURAL, "mask_at": "trial"},
    ),
    "sd_espo": Recipe(
        surrogate="ratio",
        mask="ratio_within",
        stop="ratio_deviation",
        defaults={**_EARLY_STOPPING, "dropout_threshold": 0.25},
    ),
    "spo": Recipe(surrogate="spo"),
    "r2vpo": Recipe(surrogate="ratio", constraint="ratio_variance"),
    "ppo_adaptive": Recipe(
        surrogate="clip", defaults={"learning_rate_schedule": "adaptive_kl", "max_kl": 0.01}
    ),
}


class Slots(NamedTuple):
    """A recipe with its hyperparameters filled in."""

    surrogate: BoundSlot  # (stats, advantage) -> (M,) to be maximised
    mask: BoundSlot  # (stats, advantage) -> (M,) bool
    stop: BoundSlot  # (stats, valid) -> () bool
    constraint: BoundSlot | None  # (stats) -> (M,); None: nothing is constrained
    may_stop: bool  # False: the stop need not be measured
    may_drop: bool  # False: the mask keeps everything
    step: Literal["adam", "natural"]


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; the message names the closest.
    """
    return look_up("algorithm", name, RECIPES)


def slot_names(recipe: Recipe, config: UpdateConfig) -> dict[str, str]:
    """What fills each of `SLOTS`: the recipe's choice, or what ``config`` puts in its place."""
    return {slot: getattr(recipe if getattr(config, slot) is None else config, slot) for slot in SLOTS}


def fill_slots(recipe: Recipe, config: UpdateConfig) -> Slots:
    """The recipe's slots, or those that ``config`` puts in their place, bound to ``config``.

    Raises:
        UserError: ``config`` asks for what cannot apply to this kind of step.
    """
    filled = slot_names(recipe, config)
    check_applies(recipe.step, config, filled)
    bound = {slot: _bind(slot, name, config) for slot, name in filled.items() if name != NO_CONSTRAINT}
    return Slots(
        surrogate=bound["surrogate"],
        mask=bound["mask"],
        stop=bound["stop"],
        constraint=bound.get("constraint"),
        may_stop=filled["stop"] != "never",
        may_drop=filled["mask"] != "keep_all",
        step=recipe.step,
    )


def _bind(slot: str, name: str, config: UpdateConfig) -> BoundSlot:
    function = SLOTS[slot][name]
    settings = {setting: getattr(config, setting) for setting in settings_of(slot, name)}

    def bound(*data: Any, scheduled: Mapping[str, Tensor] | None = None) -> Tensor:
        now = {setting: value for setting, value in (scheduled or {}).items() if setting in settings}
        return function(*data, **{**settings, **now})

    return bound
