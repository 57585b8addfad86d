"""Figures over the seeds of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from seed_statistics import Profile, band

from grids.records import Run

_PANEL = (4.2, 3.0)  # inches
_STROKES = ("-", "--", ":", "-.")


def plot_curves(env: str, by_variant: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Training returns on one environment."""
    figure = _new_figure(9, max(4.0, 0.2 * len(by_variant)))
    axes = figure.add_subplot()
    _draw_curves(axes, by_variant, list(by_variant))
    axes.set_title(f"{env}: mean and range over seeds")
    axes.set_ylabel("training return, last 100 episodes")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)


def plot_all_curves(by_env: Mapping[str, Mapping[str, Sequence[Run]]], path: Path) -> None:
    """A panel for each environment, three in a row."""
    rows = -(-len(by_env) // 3)
    figure = _new_figure(3 * _PANEL[0], rows * _PANEL[1])
    variants = list(dict.fromkeys(variant for found in by_env.values() for variant in found))
    lines: dict[str, Line2D] = {}
    for place, (env, by_variant) in enumerate(by_env.items(), start=1):
        axes = figure.add_subplot(rows, 3, place)
        lines |= _draw_curves(axes, by_variant, variants)
        axes.set_title(env)
    shown = [variant for variant in variants if variant in lines]
    figure.legend([lines[variant] for variant in shown], shown, loc="outside lower center", ncols=len(shown))
    figure.savefig(path, dpi=110)


def plot_profiles(profiles: Mapping[str, Profile], scale: str, path: Path) -> None:
    """Fraction of runs above each score, of which ``scale`` says what 0 and 1 are."""
    figure = _new_figure(7, 4)
    axes = figure.add_subplot()
    for variant, profile in profiles.items():
        (line,) = axes.plot(profile.threshold, profile.fraction, label=variant)
        axes.fill_between(
            profile.threshold, profile.low, profile.high, alpha=0.12, color=line.get_color(), linewidth=0
        )
    axes.set_xlabel(f"score: {scale}")
    axes.set_ylabel("fraction of runs with a higher score")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _draw_curves(
    axes: Axes, by_variant: Mapping[str, Sequence[Run]], variants: Sequence[str]
) -> dict[str, Line2D]:
    """Each variant in the colour and stroke of its place in ``variants``; the lines that were drawn."""
    lines: dict[str, Line2D] = {}
    for variant, runs in by_variant.items():
        curves = [run.training_curve for run in runs]
        if curves := [curve for curve in curves if len(curve[0])]:
            shown, place = band(curves), variants.index(variant)
            color, stroke = f"C{place}", _STROKES[place // 10 % len(_STROKES)]  # there are ten colours
            label = f"{variant} ({len(curves)} seed{'s' * (len(curves) > 1)})"
            (lines[variant],) = axes.plot(shown.x, shown.mean, stroke, color=color, label=label)
            axes.fill_between(shown.x, shown.low, shown.high, alpha=0.2, color=color, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.grid(alpha=0.3)
    return lines


def _new_figure(width: float, height: float) -> Figure:
    # Without pyplot: no window system, no global state.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
