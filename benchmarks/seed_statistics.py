"""Statistics over a few seeds, as pure functions of arrays.

The file is not called statistics.py: Python puts a script's own folder first on its path, and the
standard library's module of that name would be hidden from torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlkit_es.runs.plots import align

RESAMPLES = 10_000


class Interval(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float


class Band(NamedTuple):
    """Several curves on one grid."""

    x: np.ndarray  # (G,)
    mean: np.ndarray  # (G,)
    low: np.ndarray  # (G,) the smallest of the curves
    high: np.ndarray  # (G,) the largest


def sample_std(values: Sequence[float]) -> float:
    """Standard deviation with n - 1 in the denominator; NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of what remains when floor(n / 4) values are cut from either end.

    As in Agarwal et al., arXiv:2108.13264. Under four values nothing is cut: it is the mean.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile-bootstrap interval of the mean; always the same one for the same values.

    Args:
        values: (n,) one a seed. Few values give an interval that is too narrow: with 3, one of 95%
            covers the true mean about 3 times in 4.
        level: of confidence, in (0, 1).
        seed: of the resampling.
    """
    array = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def thin(length: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0 to length - 1, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def band(curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = 200) -> Band:
    """Mean and range of curves ``(x, y)`` with rising x, interpolated where all of them have values."""
    x, y = align(curves, points)
    return Band(x, y.mean(axis=0), y.min(axis=0), y.max(axis=0))
