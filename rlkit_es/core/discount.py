"""A discount that changes over training."""

from __future__ import annotations


def discount_at(gamma: float, horizon_growth: float, remaining: float) -> float:
    """The discount whose horizon is on the way from that of ``gamma`` to ``horizon_growth`` times as much.

    The horizon 1 / (1 - gamma), in steps, moves linearly. François-Lavet et al. (arXiv:1512.02011) look
    further ahead as Q-learning goes on; there 1 - gamma falls by a factor from epoch to epoch.

    Args:
        gamma: at the start, up to 1, where there is no end to the horizon.
        horizon_growth: the factor at the end, 1 or more.
        remaining: of training, from 1 to 0.
    """
    if horizon_growth == 1:
        return gamma
    return 1 - (1 - gamma) / (remaining + (1 - remaining) * horizon_growth)
