"""Draws docs/idea.png with functions of rlkit_es.core: ``python docs/generate/idea_figure.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from rlkit_es.core import masks, stops, surrogates
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.types import PolicyStats

DEFAULTS = UpdateConfig()
_POINTS = 2001


def stats_of(ratio: Tensor) -> PolicyStats:
    """Samples (M,) whose ratio is known, and whose KL does not matter."""
    return PolicyStats(ratio.log(), torch.zeros_like(ratio))


def surrogate_curves(ratio: Tensor, advantage: float) -> dict[str, Tensor]:
    """What each surrogate makes of samples with these ratios (M,) and one advantage, (M,) each."""
    stats, advantages = stats_of(ratio), torch.full_like(ratio, advantage)
    return {
        "ratio": surrogates.ratio(stats, advantages),
        "clip": surrogates.clip(stats, advantages, DEFAULTS.clip_range),
        "spo": surrogates.spo(stats, advantages, DEFAULTS.clip_range),
    }


def moved(distance: float) -> PolicyStats:
    """A Gaussian policy whose mean has moved by so many standard deviations; its actions are quantiles."""
    quantile = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS
    action = torch.special.ndtri(quantile)
    log_ratio = action * distance - distance**2 / 2
    return PolicyStats(log_ratio, torch.full_like(log_ratio, distance**2 / 2))


def stopping_distance(distances: Tensor) -> float:
    """The first of the distances at which early stopping says stop."""
    valid = torch.ones(_POINTS, dtype=torch.bool)
    stopped = [stops.ratio_deviation(moved(float(d)), valid, DEFAULTS.deviation_threshold) for d in distances]
    return float(distances[stopped.index(torch.tensor(True))])


def draw(path: Path) -> None:
    """Write the figure."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for ax, advantage in zip(axes, (1.0, -1.0), strict=False):
        _draw_surrogates(ax, advantage)
    axes[0].legend(loc="upper left", fontsize=8)
    _draw_stop(axes[2])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_surrogates(ax: Axes, advantage: float) -> None:
    ratio = torch.linspace(0.02, 2, _POINTS)
    for name, values in surrogate_curves(ratio, advantage).items():
        style = "--" if name == "clip" else "-"  # it lies on the ratio for half of the way
        ax.plot(ratio, values, style, label=f"surrogate {name}")
    kept = masks.ratio_within(stats_of(ratio), torch.full_like(ratio, advantage), DEFAULTS.dropout_threshold)
    dropped = ~kept.numpy()
    label = f"dropped by ratio_within, delta {DEFAULTS.dropout_threshold:g}"
    ax.fill_between(
        ratio, 0, 1, where=dropped, transform=ax.get_xaxis_transform(), color="grey", alpha=0.2, label=label
    )
    ax.axvline(1, color="black", linewidth=0.6)
    ax.set(title=f"one sample, A = {advantage:+g}", xlabel="ratio r", ylabel="surrogate, to be maximised")
    ax.set_ylim(advantage - 2, advantage + 1.5)


def _draw_stop(ax: Axes) -> None:
    distances = torch.linspace(0, 1, 201)
    ratios = torch.stack([moved(float(d)).ratio for d in distances])
    ax.plot(distances, (ratios - 1).abs().mean(1), label="mean |r - 1|")
    far = (ratios - 1).abs().quantile(0.95, dim=1)
    ax.plot(distances, far, linestyle=":", label="|r - 1| of one sample in 20 is above this")
    ax.axhline(DEFAULTS.deviation_threshold, color="grey", linewidth=0.8)
    stop = stopping_distance(distances)
    ax.axvline(stop, color="black", linestyle="--", linewidth=0.8)
    ax.text(
        stop + 0.02, 0.06, f"ratio_deviation stops here:\nthe mean reached {DEFAULTS.deviation_threshold:g}"
    )
    ax.set(title="all samples, a Gaussian policy", xlabel="its mean has moved by (standard deviations)")
    ax.set(xlim=(0, 1), ylim=(0, 1.5), ylabel="distance from 1")
    ax.legend(loc="upper left", fontsize=8)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "idea.png")
