"""From run directories to what is committed: curves, cells, a summary and plots."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from learning_grid import path_name
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from seed_statistics import band, bootstrap_interval, interquartile_mean, sample_std, thin

from rlkit_es.runs.run_records import read_run

_K = TypeVar("_K", bound=Hashable)

_CURVE_POINTS = 100
_CURVE_FIELDS = ("env_steps", "wall_seconds", "episode_return_mean")
# Metrics of each update that are summarised over a run, and their headings.
_DIAGNOSTICS = {
    "surrogate_variance": "Var(r A)",
    "surrogate_variance_within": "Var(r A), \\|r - 1\\| < delta",
    "ratio_max": "largest r",
    "ratio_deviation": "E\\|r - 1\\|",
    "approx_kl": "KL",
    "kept_fraction": "kept",
    "policy_steps": "policy steps",
}


@dataclass(frozen=True)
class FinishedCell:
    """What one run left behind."""

    command: str
    description: Mapping[str, Any]  # its config.json
    evaluation: Mapping[str, Any]  # its evaluation.json
    metrics: Mapping[str, np.ndarray]  # (L,) by name, one value a logged iteration

    @property
    def config(self) -> dict[str, Any]:
        """Every setting of the run."""
        return dict(self.description["config"])

    @property
    def env(self) -> str:
        """Its exact environment id."""
        return str(self.config["env"])

    @property
    def algo(self) -> str:
        """Its recipe."""
        return str(self.config["algo"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def curve(self) -> list[np.ndarray]:
        """The curve fields from where the first episode had ended, at most `_CURVE_POINTS` of each."""
        known = np.flatnonzero(~np.isnan(self.metrics["episode_return_mean"]))
        chosen = known[thin(len(known), _CURVE_POINTS)]
        return [self.metrics[name][chosen] for name in _CURVE_FIELDS]

    @property
    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Median and 99th percentile over the updates, of those metrics that this run has."""
        known = {name: self.metrics[name] for name in _DIAGNOSTICS if name in self.metrics}
        return {
            name: {"median": float(np.median(x)), "99th percentile": float(np.percentile(x, 99))}
            for name, x in known.items()
        }

    @property
    def final_training_return(self) -> float:
        """Mean over the last 100 episodes of training; NaN where none ended."""
        return float(self.metrics["episode_return_mean"][-1])


def read_cells(root: Path) -> list[FinishedCell]:
    """Every finished run under ``root``, by environment, algorithm and seed."""
    cells = [_read_cell(path.parent) for path in root.glob("*/*/seed*/evaluation.json")]
    return sorted(cells, key=lambda cell: (cell.env, cell.algo, cell.seed))


def write_report(cells: Sequence[FinishedCell], directory: Path) -> None:
    """curves.csv, cells.json, summary.md, and a plot for each environment."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_curves(cells, directory / "curves.csv")
    content = [_describe_cell(cell) for cell in cells]
    (directory / "cells.json").write_text(json.dumps(content, indent=2) + "\n")
    (directory / "summary.md").write_text(summarize(cells))
    for env, of_env in _group(cells, lambda cell: cell.env).items():
        _plot(env, _group(of_env, lambda cell: cell.algo), directory / f"{path_name(env)}.png")


def summarize(cells: Sequence[FinishedCell]) -> str:
    """The table of environments and algorithms, with what it was measured with."""
    lines = ["# Learning", "", *_provenance(cells), ""]
    lines += [
        "Over seeds, of the mean return of the deterministic evaluation after training: mean, standard",
        "deviation, interquartile mean, and the 95% percentile-bootstrap interval of the mean (too",
        "narrow with few seeds). Training return: of the last 100 episodes, mean over seeds.",
        "",
        "| env | algo | seeds | mean | std | IQM | 95% interval | training return |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (env, algo), group in _group(cells, lambda cell: (cell.env, cell.algo)).items():
        returns = [float(cell.evaluation["return_mean"]) for cell in group]
        interval = bootstrap_interval(returns)
        numbers = [float(np.mean(returns)), sample_std(returns), interquartile_mean(returns)]
        span = f"{_number(interval.low)} to {_number(interval.high)}" if len(group) > 1 else "-"
        training = _number(float(np.mean([cell.final_training_return for cell in group])))
        entries = [env, algo, str(len(group)), *map(_number, numbers), span, training]
        lines.append(f"| {' | '.join(entries)} |")
    measured = [cell for cell in cells if len(cell.diagnostics) == len(_DIAGNOSTICS)]
    return "\n".join([*lines, *(_summarize_diagnostics(measured) if measured else [])]) + "\n"


def _summarize_diagnostics(cells: Sequence[FinishedCell]) -> list[str]:
    lines = [
        "",
        "How far an update moves the policy: over the updates of a run the median and, after the slash, the",
        "99th percentile; of these the median over seeds. A is normalised over the batch.",
        "",
        f"| env | algo | {' | '.join(_DIAGNOSTICS.values())} |",
        f"|---|---|{'---|' * len(_DIAGNOSTICS)}",
    ]
    for (env, algo), group in _group(cells, lambda cell: (cell.env, cell.algo)).items():
        entries = [
            " / ".join(
                f"{np.median([cell.diagnostics[name][statistic] for cell in group]):,.3g}"
                for statistic in ("median", "99th percentile")
            )
            for name in _DIAGNOSTICS
        ]
        lines.append(f"| {' | '.join([env, algo, *entries])} |")
    return lines


def _provenance(cells: Sequence[FinishedCell]) -> list[str]:
    """What was used, all of it where cells differ."""
    used: dict[str, Iterable[object]] = {
        "environment steps": [f"{cell.config['total_steps']:,}" for cell in cells],
        "git revision": [cell.description["git_revision"] for cell in cells],
        "backend": [cell.description["backend"] for cell in cells],
        "python": [cell.description["python"] for cell in cells],
    }
    for package in cells[0].description["versions"]:
        used[package] = [cell.description["versions"][package] for cell in cells]
    return [f"- {name}: {', '.join(sorted(set(map(str, values))))}" for name, values in used.items()]


def _read_cell(directory: Path) -> FinishedCell:
    return FinishedCell(
        command=(directory / "command.txt").read_text().strip(),
        description=json.loads((directory / "config.json").read_text()),
        evaluation=json.loads((directory / "evaluation.json").read_text()),
        metrics=read_run(directory).metrics,
    )


def _describe_cell(cell: FinishedCell) -> dict[str, Any]:
    kept = ("backend", "update", "versions", "python", "platform", "git_revision", "config")
    training_return = cell.final_training_return
    return {
        "env": cell.env,
        "algo": cell.algo,
        "seed": cell.seed,
        "command": cell.command,
        "wall_seconds": float(cell.metrics["wall_seconds"][-1]),
        "final_training_return": None if math.isnan(training_return) else training_return,
        "evaluation": cell.evaluation,
        "diagnostics": cell.diagnostics,
        **{name: cell.description[name] for name in kept},
    }


def _write_curves(cells: Sequence[FinishedCell], path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["env", "algo", "seed", *_CURVE_FIELDS])
        for cell in cells:
            for steps, seconds, episode_return in zip(*cell.curve, strict=True):
                values = [int(steps), f"{seconds:.1f}", f"{episode_return:.2f}"]
                writer.writerow([cell.env, cell.algo, cell.seed, *values])


def _plot(env: str, by_algo: Mapping[str, Sequence[FinishedCell]], path: Path) -> None:
    # Without pyplot: no window system, no global state.
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for algo, cells in by_algo.items():
        curves = [(cell.curve[0], cell.curve[2]) for cell in cells if len(cell.curve[0])]
        if curves:
            shown = band(curves)
            axes.plot(shown.x, shown.mean, label=f"{algo} ({len(curves)} seeds)")
            axes.fill_between(shown.x, shown.low, shown.high, alpha=0.2)
    axes.set_title(f"{env}: mean and range over seeds")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("training return, last 100 episodes")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _group(cells: Iterable[FinishedCell], key: Callable[[FinishedCell], _K]) -> dict[_K, list[FinishedCell]]:
    groups: dict[_K, list[FinishedCell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"
