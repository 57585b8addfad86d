"""Reading back what runs left on disk."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit_es.errors import UserError
from rlkit_es.runs.resume import MAY_CHANGE
from rlkit_es.runs.run_description import DESCRIPTION
from rlkit_es.training.config import Config

Column = NDArray[np.float64]

# Settings that do not make two runs different experiments.
_CIRCUMSTANCES = MAY_CHANGE - {"total_steps"} | {"seed", "run_dir"}
# What a run of an earlier version did in the settings that it did not know yet.
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Config)
    if field.default is not dataclasses.MISSING
}
_UNKNOWN = "unknown"  # of a setting that a run of another version does not have


@dataclass(frozen=True)
class RunRecord:
    """One run: its settings and its metrics."""

    directory: Path
    settings: dict[str, Any]
    metrics: dict[str, Column]  # (iterations,) each

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings that make it what it is; those of another seed are the same."""
        return {name: value for name, value in self.settings.items() if name not in _CIRCUMSTANCES}


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs in ``paths``: run directories, or directories that hold some at any depth.

    Raises:
        UserError: a path holds no run, or a run cannot be read.
    """
    directories: dict[Path, Path] = {}  # resolved: as given
    for path in paths:
        found = sorted(file.parent for file in path.rglob("metrics.csv"))
        if not found:
            raise UserError(f"no run in {path}: name a directory that holds metrics.csv, or one above it")
        for directory in found:
            directories.setdefault(directory.resolve(), directory)
    return [read_run(directory) for directory in directories.values()]


def read_run(directory: Path) -> RunRecord:
    """The run in ``directory``.

    Raises:
        UserError: it has not logged anything yet, or what it left cannot be read.
    """
    try:
        settings = {**_DEFAULTS, **json.loads((directory / DESCRIPTION).read_text())["config"]}
        metrics = _read_metrics((directory / "metrics.csv").read_text())
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"run {directory} cannot be read: {error}") from error
    if "env_steps" not in metrics:
        raise UserError(f"run {directory} has logged no iteration yet")
    return RunRecord(directory, settings, metrics)


def _read_metrics(text: str) -> dict[str, Column]:
    rows = complete_rows(text)
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}


def complete_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file; the last line of a run that goes on, or was killed, may be half written."""
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def numbers_of(row: Mapping[str, str]) -> dict[str, float]:
    """What a row says; raises ValueError or TypeError where it is no number."""
    return {name: float(value) for name, value in row.items()}


def rows_until(path: Path, env_steps: float) -> list[dict[str, str]]:
    """What was logged in ``path`` up to ``env_steps``, as it stands there; nothing where it is missing.

    Raises:
        UserError: it is there and cannot be read.
    """
    if not path.exists():
        return []
    try:
        rows = complete_rows(path.read_text())
        return [row for row in rows if numbers_of(row)["env_steps"] <= env_steps]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; move it away to log anew") from error


def group_seeds(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs that differ by seed alone together, under labels that tell the groups apart."""
    groups: list[list[RunRecord]] = []
    for run in runs:
        alike = next((group for group in groups if group[0].experiment == run.experiment), None)
        if alike is None:
            groups.append([run])
        else:
            alike.append(run)
    return dict(zip(_labels([group[0].experiment for group in groups]), groups, strict=True))


def _labels(experiments: list[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for experiment in experiments for name in experiment)
    labels = []
    for experiment in experiments:
        namesakes = [
            other
            for other in experiments
            if (other.get("algo"), other.get("env")) == (experiment.get("algo"), experiment.get("env"))
        ]
        different = [
            f"{name}={experiment.get(name, _UNKNOWN)}"
            for name in names
            if any(other.get(name, _UNKNOWN) != experiment.get(name, _UNKNOWN) for other in namesakes)
        ]
        labels.append(" ".join([f"{experiment.get('algo')} {experiment.get('env')}", *different]))
    return labels
