"""Running mean and variance, merged a batch at a time (Chan, Golub and LeVeque, 1983)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RunningStats(NamedTuple):
    """Mean and population variance of everything seen so far."""

    mean: Tensor  # (...,) float32
    variance: Tensor  # (...,) float32, 1 before anything is seen
    seen: Tensor  # () int64: exact past 2**24, on devices without float64 too


def empty(shape: tuple[int, ...]) -> RunningStats:
    """Nothing seen yet: normalising with it changes nothing."""
    return RunningStats(torch.zeros(shape), torch.ones(shape), torch.zeros((), dtype=torch.int64))


def moments(x: Tensor, valid: Tensor) -> RunningStats:
    """The statistics of the valid rows of ``x`` alone.

    Args:
        x: (B, ...) rows.
        valid: (B,) bool; rows that are not valid are not counted.

    Returns:
        over the trailing dimensions of ``x``; numbers without meaning where no row is valid.
    """
    rows = x[valid]
    seen = torch.full((), rows.shape[0], dtype=torch.int64, device=x.device)
    if not len(rows):
        return RunningStats(x.new_zeros(x.shape[1:]), x.new_ones(x.shape[1:]), seen)
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return RunningStats(mean, variance, seen)


def combine(stats: RunningStats, new: RunningStats) -> RunningStats:
    """The statistics of what either has seen; those of ``stats`` where ``new`` has seen nothing."""
    if not new.seen:
        return stats
    seen = stats.seen + new.seen
    # Tensor by tensor: a number divided by a tensor is not exactly 1 where the two are equal.
    weight = (new.seen / seen).to(new.mean.dtype)
    delta = new.mean - stats.mean
    between = weight * (1 - weight) * delta.square()
    return RunningStats(
        stats.mean + weight * delta,
        (1 - weight) * stats.variance + weight * new.variance + between,
        seen,
    )
