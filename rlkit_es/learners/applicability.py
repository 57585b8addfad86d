"""Which settings go with which kind of step and slot: what cannot have an effect is refused, not ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from rlkit_es.errors import UserError
from rlkit_es.learners.config import DEFAULTS, UpdateConfig, settings_of
from rlkit_es.learners.slots import NO_CONSTRAINT

# Fields that only one kind of step reads.
_ONLY_ADAM = (
    *("epochs", "stop_when", "entropy_coefficient", "deviation_threshold_schedule"),
    *("log_std_learning_rate", "recompute_advantages", "common_gradient"),
)
_ONLY_NATURAL = (
    *("max_kl_schedule", "cg_iterations", "cg_damping", "line_search_steps", "line_search_shrink"),
    "fisher_fraction",
)


def check_applies(step: Literal["adam", "natural"], config: UpdateConfig, filled: Mapping[str, str]) -> None:
    """No setting was changed that belongs to the other kind of step, or to a slot that is empty.

    Hyperparameters of a function that another one could replace (`clip_range` with the surrogate
    ratio, say) are let through: defaults have them too. `unread.refuse_unread` knows what was given.

    Args:
        step: of the recipe.
        config: the settings.
        filled: what fills each slot.

    Raises:
        UserError: one has none; the message says what has.
    """
    if step == "natural":
        _check_natural(config, filled)
    unread = _ONLY_ADAM if step == "natural" else _ONLY_NATURAL
    read = ("max_kl", *_ONLY_NATURAL) if step == "natural" else ("learning_rate", *_ONLY_ADAM)
    for name in unread:
        if getattr(config, name) != DEFAULTS[name]:
            raise UserError(
                f"{name} has no effect on {_article(step)} step, which is governed by {', '.join(read)}: "
                "leave it out"
            )
    _check_slots(step, config, filled)


def _check_slots(step: str, config: UpdateConfig, filled: Mapping[str, str]) -> None:
    """Settings of a slot that is filled with something else."""
    if filled["constraint"] == NO_CONSTRAINT:
        for name in ("constraint_limit", "dual_learning_rate", "initial_penalty"):
            if getattr(config, name) != DEFAULTS[name]:
                raise UserError(
                    f"{name} has no effect without a constraint: choose --constraint ratio_variance or kl"
                )
    if filled["mask"] == "keep_all" and (config.mask_value or (config.mask_at == "trial" and step == "adam")):
        name = "mask_value" if config.mask_value else "mask_at trial"
        raise UserError(f"{name} has no effect with the mask keep_all: choose another --mask")
    read = {name for slot, function in filled.items() for name in settings_of(slot, function)}
    if "deviation_threshold" not in read and config.deviation_threshold_schedule != "constant":
        raise UserError(
            f"deviation_threshold_schedule has no effect with the stop {filled['stop']}: "
            "choose --stop ratio_deviation"
        )


def _check_natural(config: UpdateConfig, filled: Mapping[str, str]) -> None:
    stop, constraint, mask = filled["stop"], filled["constraint"], filled["mask"]
    if stop != "never":
        raise UserError(
            f"stop {stop} cannot apply to a natural step, which moves the policy once and within max_kl: "
            "use stop never, or a recipe with minibatch steps"
        )
    if constraint != NO_CONSTRAINT:
        raise UserError(
            f"constraint {constraint} cannot apply to a natural step, which has its own trust region: "
            "use constraint none and max_kl, or a recipe with minibatch steps"
        )
    if mask != "keep_all" and config.mask_at == "current":
        raise UserError(
            f"mask {mask} cannot be taken at the current policy of a natural step, where every ratio is 1: "
            "use mask_at trial, or mask keep_all"
        )
    if math.isinf(config.max_kl):
        raise UserError(
            "max_kl inf leaves a natural step no length: use the largest KL that an update may make, 0.1 say"
        )
    if config.learning_rate_schedule == "adaptive_kl":
        raise UserError(
            "learning_rate_schedule adaptive_kl cannot apply to a natural step, whose length max_kl sets: "
            "use linear or constant, for the critic"
        )
    if config.critic_epochs is None:
        raise UserError(
            "critic_epochs None (until the policy stops) cannot apply to a natural step, which does not "
            "stop early: use a number of epochs"
        )


def _article(step: str) -> str:
    return {"adam": "an Adam", "natural": "a natural"}[step]
