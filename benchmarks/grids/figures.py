"""Figures over the seeds of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from seed_statistics import Profile, band

from grids.records import Run

_PANEL = (4.2, 3.0)  # inches


def plot_curves(env: str, by_variant: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Training returns on one environment."""
    figure = _new_figure(7, 4)
    axes = figure.add_subplot()
    _draw_curves(axes, by_variant)
    axes.set_title(f"{env}: mean and range over seeds")
    axes.set_ylabel("training return, last 100 episodes")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_all_curves(by_env: Mapping[str, Mapping[str, Sequence[Run]]], path: Path) -> None:
    """A panel for each environment, three in a row."""
    rows = -(-len(by_env) // 3)
    figure = _new_figure(3 * _PANEL[0], rows * _PANEL[1])
    for place, (env, by_variant) in enumerate(by_env.items(), start=1):
        axes = figure.add_subplot(rows, 3, place)
        _draw_curves(axes, by_variant)
        axes.set_title(env)
        if place == 1:
            axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)


def plot_profiles(profiles: Mapping[str, Profile], path: Path) -> None:
    """Fraction of runs above each score."""
    figure = _new_figure(7, 4)
    axes = figure.add_subplot()
    for variant, profile in profiles.items():
        (line,) = axes.plot(profile.threshold, profile.fraction, label=variant)
        axes.fill_between(
            profile.threshold, profile.low, profile.high, alpha=0.12, color=line.get_color(), linewidth=0
        )
    axes.set_xlabel("score: return / best published at this budget")
    axes.set_ylabel("fraction of runs with a higher score")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _draw_curves(axes: Axes, by_variant: Mapping[str, Sequence[Run]]) -> None:
    for variant, runs in by_variant.items():
        curves = [run.training_curve for run in runs]
        if curves := [curve for curve in curves if len(curve[0])]:
            shown = band(curves)
            axes.plot(shown.x, shown.mean, label=f"{variant} ({len(curves)} seeds)")
            axes.fill_between(shown.x, shown.low, shown.high, alpha=0.2)
    axes.set_xlabel("environment steps")
    axes.grid(alpha=0.3)


def _new_figure(width: float, height: float) -> Figure:
    # Without pyplot: no window system, no global state.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
