"""Figures: the learning curve of one run, and the diagnostics of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit_es.errors import UserError
from rlkit_es.runs.run_records import Column, RunRecord
from rlkit_es.training.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID_POINTS = 400


@dataclass(frozen=True)
class _Panel:
    """One pair of axes; the metrics are drawn solid, dashed and dotted."""

    title: str
    metrics: tuple[str, ...]
    log: bool = False
    names: tuple[str, ...] = ()  # of the lines, where there are several


_PANELS = (
    _Panel("return, last 100 episodes", ("episode_return_mean",)),
    _Panel("ratio range", ("ratio_max", "ratio_min"), log=True, names=("max r", "min r")),
    _Panel("ratio bias E[r] - 1", ("ratio_bias",)),
    _Panel("ratio deviation E|r - 1|", ("ratio_deviation",)),
    _Panel("KL(old || new), nats", ("approx_kl",), log=True),
    _Panel(
        "surrogate variance Var(r A)",
        ("surrogate_variance", "surrogate_variance_within", "surrogate_variance_bound"),
        log=True,
        names=("all", "|r - 1| < delta", "bound"),
    ),
    _Panel("fraction of samples kept", ("kept_fraction",)),
    _Panel("policy steps until the stop", ("policy_steps",)),
    _Panel("entropy, nats", ("entropy",)),
)
_LINE_STYLES = ("-", "--", ":")


def plot_learning_curve(metrics: list[dict[str, float]], evaluation: Evaluation | None, path: Path) -> None:
    """Mean training return over environment steps, with the evaluation as a mark."""
    figure = _new_figure(7, 4)
    axes = figure.add_subplot()
    steps = [m["env_steps"] for m in metrics]
    axes.plot(steps, [m["episode_return_mean"] for m in metrics], label="training, last 100 episodes")
    if evaluation is not None:
        axes.errorbar(
            [evaluation.env_steps],
            [evaluation.return_mean],
            yerr=[evaluation.return_std],
            fmt="o",
            capsize=3,
            label=f"deterministic, {evaluation.episodes} episodes",
        )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_diagnostics(groups: Mapping[str, Sequence[RunRecord]], path: Path, *, smooth: int) -> None:
    """How far each update moved the policy and which samples moved it, over environment steps.

    Args:
        groups: by label, runs of the same experiment with different seeds: their mean is a line, and
            the band goes from the lowest to the highest seed.
        path: what to write; the suffix decides the format.
        smooth: iterations that a moving mean is taken over.

    Raises:
        UserError: the figure cannot be written.
    """
    figure = _new_figure(15, 11)
    axes = figure.subplots(3, 3).flatten()
    for panel, panel_axes in zip(_PANELS, axes, strict=True):
        drawn = [
            _draw(panel_axes, panel, runs, f"C{number % 10}", smooth)
            for number, runs in enumerate(groups.values())
        ]
        panel_axes.set_title(panel.title, fontsize=11)
        panel_axes.set_xlabel("environment steps", fontsize=9)
        panel_axes.grid(alpha=0.3)
        if panel.log and max(drawn, default=0.0) > 0:
            panel_axes.set_yscale("log")
        if panel.names:
            styles = zip(panel.names, _LINE_STYLES, strict=False)
            handles = [panel_axes.plot([], [], style, color="grey", label=name)[0] for name, style in styles]
            panel_axes.legend(handles=handles, fontsize=8)
    handles = [axes[0].plot([], [], color=f"C{i % 10}")[0] for i in range(len(groups))]
    labels = [f"{label}, {_seeds(runs)}" for label, runs in groups.items()]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(groups), 3))
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}; choose another --output") from error


def _draw(axes: Any, panel: _Panel, runs: Sequence[RunRecord], color: str, smooth: int) -> float:
    """One group's lines in one panel; returns the largest value drawn, 0 where there is none."""
    largest = 0.0
    for metric, style in zip(panel.metrics, _LINE_STYLES, strict=False):
        curves = [
            (r.metrics["env_steps"], _smooth(r.metrics[metric], smooth)) for r in runs if metric in r.metrics
        ]
        if not curves:
            continue
        steps, values = align(curves)
        axes.plot(steps, values.mean(0), style, color=color, linewidth=1.2)
        if len(values) > 1:
            axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        largest = max(largest, float(values.max(initial=0.0)))
    return largest


def align(curves: Sequence[tuple[Column, Column]], points: int = _GRID_POINTS) -> tuple[Column, Column]:
    """Curves over their own steps, as values over common steps that all of them have reached.

    Args:
        curves: steps (I,) and values (I,) of each; values that are not finite are left out.
        points: G, of the common steps.

    Returns:
        steps (G,) and values (len(curves), G); G is 0 where they have no step in common.
    """
    finite = [(steps[np.isfinite(values)], values[np.isfinite(values)]) for steps, values in curves]
    if any(len(steps) == 0 for steps, _ in finite):
        return np.empty(0), np.empty((len(curves), 0))
    begin, end = max(steps[0] for steps, _ in finite), min(steps[-1] for steps, _ in finite)
    if begin > end:
        return np.empty(0), np.empty((len(curves), 0))
    grid = np.linspace(begin, end, points)
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in finite])


def _smooth(values: Column, window: int) -> Column:
    """Mean over the last ``window`` values, of as many as there are at the beginning; NaN is skipped."""
    if not len(values):
        return values
    window = min(window, len(values))
    padded = np.concatenate([np.full(window - 1, np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    finite = np.isfinite(windows)
    sums, counts = np.where(finite, windows, 0.0).sum(1), finite.sum(1)
    means: Column = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _seeds(runs: Sequence[RunRecord]) -> str:
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def _new_figure(width: float, height: float) -> Figure:
    # Deferred, and without pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
