"""A discount that changes over training."""

from __future__ import annotations


def discount_at(gamma: float, gamma_end: float, remaining: float) -> float:
    """The discount whose horizon is on the way from that of ``gamma`` to that of ``gamma_end``.

    The horizon 1 / (1 - gamma), in steps, moves linearly. François-Lavet et al. (arXiv:1512.02011) look
    further ahead as Q-learning goes on; there 1 - gamma falls by a factor.

    Args:
        gamma: at the start, below 1.
        gamma_end: at the end, below 1.
        remaining: of training, from 1 to 0.
    """
    horizon = remaining / (1 - gamma) + (1 - remaining) / (1 - gamma_end)
    return 1 - 1 / horizon
