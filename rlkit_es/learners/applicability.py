"""Which settings go with which kind of step and slot: what cannot have an effect is refused, not ignored."""

from __future__ import annotations

from typing import Literal

from rlkit_es.errors import UserError
from rlkit_es.learners.config import DEFAULTS, UpdateConfig

# Fields that only one kind of step reads.
_ONLY_ADAM = (
    *("epochs", "stop_when", "entropy_coefficient", "deviation_threshold_schedule"),
    *("log_std_learning_rate", "recompute_advantages", "common_gradient"),
)
_ONLY_NATURAL = (
    *("max_kl_schedule", "cg_iterations", "cg_damping", "line_search_steps", "line_search_shrink"),
    "fisher_fraction",
)


def check_applies(
    step: Literal["adam", "natural"], config: UpdateConfig, *, mask: str, stop: str, constraint: str
) -> None:
    """No setting was changed that belongs to the other kind of step, or to a slot that is empty.

    Hyperparameters of a function that another one could replace (`clip_range` with the surrogate
    ratio, say) are let through: defaults have them too. `unread.refuse_unread` knows what was given.

    Args:
        step: of the recipe.
        config: the settings.
        mask: the slot as it will be filled.
        stop: likewise.
        constraint: likewise.

    Raises:
        UserError: one has none; the message says what has.
    """
    if step == "natural":
        _check_natural(config, mask, stop, constraint)
    unread = _ONLY_ADAM if step == "natural" else _ONLY_NATURAL
    read = ("max_kl", *_ONLY_NATURAL) if step == "natural" else ("learning_rate", *_ONLY_ADAM)
    for name in unread:
        if getattr(config, name) != DEFAULTS[name]:
            raise UserError(
                f"{name} has no effect on {_article(step)} step, which is governed by {', '.join(read)}: "
                "leave it out"
            )
    _check_slots(step, config, mask, stop, constraint)


def _check_slots(step: str, config: UpdateConfig, mask: str, stop: str, constraint: str) -> None:
    """Settings of a slot that is filled with something else."""
    if constraint == "none":
        for name in ("constraint_limit", "dual_learning_rate", "initial_penalty"):
            if getattr(config, name) != DEFAULTS[name]:
                raise UserError(
                    f"{name} has no effect without a constraint: choose --constraint ratio_variance or kl"
                )
    if mask == "keep_all" and (config.mask_value or (config.mask_at == "trial" and step == "adam")):
        name = "mask_value" if config.mask_value else "mask_at trial"
        raise UserError(f"{name} has no effect with the mask keep_all: choose another --mask")
    if stop != "ratio_deviation" and config.deviation_threshold_schedule != "constant":
        raise UserError(
            f"deviation_threshold_schedule has no effect with the stop {stop}: choose --stop ratio_deviation"
        )


def _check_natural(config: UpdateConfig, mask: str, stop: str, constraint: str) -> None:
    if stop != "never":
        raise UserError(
            f"stop {stop} cannot apply to a natural step, which moves the policy once and within max_kl: "
            "use stop never, or a recipe with minibatch steps"
        )
    if constraint != "none":
        raise UserError(
            f"constraint {constraint} cannot apply to a natural step, which has its own trust region: "
            "use constraint none and max_kl, or a recipe with minibatch steps"
        )
    if mask != "keep_all" and config.mask_at == "current":
        raise UserError(
            f"mask {mask} cannot be taken at the current policy of a natural step, where every ratio is 1: "
            "use mask_at trial, or mask keep_all"
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
