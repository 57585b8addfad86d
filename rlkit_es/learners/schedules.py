"""Hyperparameters of an update that change over training."""

from __future__ import annotations

from rlkit_es.learners.config import UpdateConfig

_SCHEDULED = ("deviation_threshold", "max_kl")


def scheduled_settings(config: UpdateConfig, remaining: float) -> dict[str, float]:
    """The limits on how far the policy may move that are not what ``config`` says, as they are now.

    Args:
        config: as it was at the start.
        remaining: of training, from 1 to 0.
    """
    return {
        name: getattr(config, name) * remaining
        for name in _SCHEDULED
        if getattr(config, f"{name}_schedule") == "linear"
    }
