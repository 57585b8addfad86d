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
_PROFILE_RESAMPLES = 1_000  # for each threshold


class Interval(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float


class Profile(NamedTuple):
    """Which fraction of runs scores above each threshold."""

    threshold: np.ndarray  # (G,)
    fraction: np.ndarray  # (G,) each task counts the same
    low: np.ndarray  # (G,) of its pointwise interval
    high: np.ndarray  # (G,)


class Estimate(NamedTuple):
    """A statistic and the interval that resampling gives it."""

    value: float
    interval: Interval


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
    return _span(array[drawn].mean(axis=1), level)


def stratified_interquartile_mean(
    scores: Sequence[Sequence[float]], level: float = 0.95, seed: int = 0
) -> Estimate:
    """IQM of all runs of several tasks, with its stratified bootstrap interval (arXiv:2108.13264).

    There every task has as many runs. Where one has fewer, each of its runs counts for more, so that each
    task counts the same.

    Args:
        scores: a sequence of runs for each task, on one scale; runs are resampled within their task.
        level: of confidence, in (0, 1).
        seed: of the resampling.
    """
    weight = np.concatenate([np.full(len(runs), 1 / len(runs) / len(scores)) for runs in scores])
    value = _weighted_interquartile_mean(np.concatenate(list(map(np.asarray, scores))), weight)
    means = _weighted_interquartile_mean(np.concatenate(_resampled(scores, seed), axis=1), weight)
    return Estimate(float(value), _span(means, level))


def probability_of_improvement(
    better: Sequence[Sequence[float]],
    worse: Sequence[Sequence[float]],
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """P(X > Y): that a run of X scores above one of Y, mean over tasks (arXiv:2108.13264); ties are halves.

    Args:
        better: X, a sequence of runs for each task.
        worse: Y, the same tasks.
        level: of confidence, in (0, 1).
        seed: of the resampling, which is stratified.
    """
    value = float(np.mean([_above(np.asarray(x), np.asarray(y)) for x, y in zip(better, worse, strict=True)]))
    pairs = zip(_resampled(better, seed), _resampled(worse, seed + 1), strict=True)
    drawn = np.mean([_above(x, y) for x, y in pairs], axis=0)
    return Estimate(value, _span(drawn, level))


def performance_profile(
    scores: Sequence[Sequence[float]], threshold: np.ndarray, level: float = 0.95, seed: int = 0
) -> Profile:
    """Fraction of runs with a score above each ``threshold`` (G,), mean over tasks (arXiv:2108.13264).

    Args:
        scores: a sequence of runs for each task, on one scale.
        threshold: where to ask.
        level: of the pointwise stratified bootstrap interval, in (0, 1).
        seed: of the resampling.
    """

    def above(runs: np.ndarray) -> np.ndarray:
        return (runs[..., None] > threshold).mean(axis=-2)

    fraction = np.mean([above(np.asarray(runs, dtype=float)) for runs in scores], axis=0)
    few = [drawn[:_PROFILE_RESAMPLES] for drawn in _resampled(scores, seed)]
    drawn = np.mean([above(runs) for runs in few], axis=0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Profile(threshold, fraction, low, high)


def thin(length: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0 to length - 1, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def band(curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = 200) -> Band:
    """Mean and range of curves ``(x, y)`` with rising x, interpolated where all of them have values."""
    x, y = align(curves, points)
    return Band(x, y.mean(axis=0), y.min(axis=0), y.max(axis=0))


def _weighted_interquartile_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(...) of ``values`` (..., n) with ``weight`` (n,) of sum 1; `interquartile_mean` where all are equal.

    Cut from either end is the weight that floor(n / 4) of n equal values have.
    """
    order = values.argsort(axis=-1)
    ordered, own = np.take_along_axis(values, order, axis=-1), weight[order]
    until = own.cumsum(axis=-1)
    cut = values.shape[-1] // 4 / values.shape[-1]
    kept = (np.minimum(until, 1 - cut) - np.maximum(until - own, cut)).clip(min=0)
    mean: np.ndarray = (kept * ordered).sum(axis=-1) / kept.sum(axis=-1)
    return mean


def _resampled(scores: Sequence[Sequence[float]], seed: int) -> list[np.ndarray]:
    """(RESAMPLES, n) of each task, drawn from its own runs with replacement."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(runs, dtype=float) for runs in scores]
    return [array[rng.integers(len(array), size=(RESAMPLES, len(array)))] for array in arrays]


def _above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fraction of pairs with ``x`` (..., n) above ``y`` (..., m)."""
    difference = x[..., :, None] - y[..., None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-1, -2))


def _span(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
