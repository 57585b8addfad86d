"""What is committed of finished runs: one row a curve point, one entry a run, settings once."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from seed_statistics import thin

from rlkit_es.runs.run_description import finite
from rlkit_es.runs.run_records import read_run
from rlkit_es.training.config import Config

RUNS_FILE, CURVES_FILE = "runs.json", "curves.csv"
CURVE_FIELDS = ("env_steps", "wall_seconds", "episode_return_mean", "evaluation_return_mean")

_CURVE_POINTS = 100  # of training returns at most; every evaluation is kept
_DECIMALS = (0, 1, 2, 2)
# Metrics of each update that are summarised over a run.
DIAGNOSTICS = (
    *("surrogate_variance", "surrogate_variance_within", "ratio_max", "ratio_min", "ratio_deviation"),
    *("approx_kl", "kept_fraction", "policy_steps"),
)
_OF_THE_RUN_ALONE = ("seed", "run_dir", "eval_every")  # how often it was looked at changes nothing in it
_CIRCUMSTANCES = ("backend", "update", "versions", "python", "platform", "git_revision")

Key = tuple[str, str, int]  # environment, variant, seed


@dataclass(frozen=True)
class Run:
    """One finished run."""

    env: str  # the exact id
    variant: str
    seed: int
    command: str
    config: Mapping[str, Any]  # every setting but those of the run alone
    circumstances: Mapping[str, Any]  # versions, git revision, backend
    wall_seconds: float
    evaluation: Mapping[str, Any]  # deterministic, at the end of training
    diagnostics: Mapping[str, Mapping[str, float]]
    curve: Mapping[str, np.ndarray]  # (L,) by name, of `CURVE_FIELDS`; NaN where there is no value

    @property
    def key(self) -> Key:
        """What tells it from the other runs of its grid."""
        return self.env, self.variant, self.seed

    @property
    def final_return(self) -> float:
        """Mean of the deterministic evaluation after training."""
        return float(self.evaluation["return_mean"])

    @property
    def final_training_return(self) -> float:
        """Mean over the last 100 episodes of training; NaN where none ended."""
        return float(self.curve["episode_return_mean"][-1]) if len(self.curve["env_steps"]) else math.nan

    @property
    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Environment steps (E,) and means (E,) of the evaluations during training and of the last one."""
        returns = self.curve["evaluation_return_mean"]
        known = ~np.isnan(returns)
        steps = np.append(self.curve["env_steps"][known], self.evaluation["env_steps"])
        return steps, np.append(returns[known], self.final_return)

    @property
    def training_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Environment steps (L,) and mean returns (L,) of the last 100 episodes of training."""
        known = ~np.isnan(self.curve["episode_return_mean"])
        return self.curve["env_steps"][known], self.curve["episode_return_mean"][known]


def experiment_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that runs with other seeds share, as JSON has them.

    A setting that came after the run has the value that leaves everything as it was: its default.
    Infinity is a string, as in ``config.json``.
    """
    defaults = {setting.name: setting.default for setting in fields(Config) if setting.default is not MISSING}
    shared = {k: v for k, v in {**defaults, **config}.items() if k not in _OF_THE_RUN_ALONE}
    return dict(json.loads(json.dumps(finite(shared), default=str)))


def digest(content: Mapping[str, Any]) -> str:
    """The first twelve digits of a SHA-256 over the content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_finished(root: Path) -> list[Run]:
    """Every finished run under ``root``, as <environment>/<variant>/seed<n>."""
    return [_from_directory(path.parent) for path in sorted(root.glob("*/*/seed*/evaluation.json"))]


def read_committed(directory: Path) -> list[Run]:
    """The runs that `write_committed` left in ``directory``; none where it was never called."""
    if not (directory / RUNS_FILE).exists():
        return []
    content = json.loads((directory / RUNS_FILE).read_text())
    curves = _read_curves(directory / CURVES_FILE)
    nothing: dict[str, np.ndarray] = {name: np.empty(0) for name in CURVE_FIELDS}
    return [
        Run(
            **{
                **entry,
                "config": experiment_of(content["configs"][entry["config"]]),
                "circumstances": content["circumstances"][entry["circumstances"]],
            },
            curve=curves.get((entry["env"], entry["variant"], entry["seed"]), nothing),
        )
        for entry in content["runs"]
    ]


def merge(committed: Sequence[Run], finished: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of both, and those of ``committed`` that have to go.

    A finished run takes the place of its namesake, and committed runs with other settings than the
    finished ones of the same environment and variant go: what is averaged is one experiment.
    """
    settings = {(run.env, run.variant): digest(run.config) for run in finished}
    new = {run.key for run in finished}
    kept: list[Run] = []
    outdated: list[Run] = []
    for run in committed:
        if run.key in new:
            continue
        same = settings.get((run.env, run.variant), digest(run.config)) == digest(run.config)
        (kept if same else outdated).append(run)
    return sorted([*kept, *finished], key=lambda run: run.key), outdated


def write_committed(runs: Sequence[Run], directory: Path) -> None:
    """Write ``runs.json`` and ``curves.csv``."""
    directory.mkdir(parents=True, exist_ok=True)
    configs = {digest(run.config): run.config for run in runs}
    circumstances = {digest(run.circumstances): run.circumstances for run in runs}
    entries = [
        {
            "env": run.env,
            "variant": run.variant,
            "seed": run.seed,
            "command": run.command,
            "config": digest(run.config),
            "circumstances": digest(run.circumstances),
            "wall_seconds": run.wall_seconds,
            "evaluation": run.evaluation,
            "diagnostics": run.diagnostics,
        }
        for run in runs
    ]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    shared = f'"configs": {json.dumps(configs)},\n"circumstances": {json.dumps(circumstances)}'
    (directory / RUNS_FILE).write_text(f'{{{shared},\n"runs": [\n{lines}\n]}}\n')
    _write_curves(runs, directory / CURVES_FILE)


def group(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """The seeds of each environment and variant, in the order in which these come."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.env, run.variant), []).append(run)
    return groups


def _from_directory(directory: Path) -> Run:
    description = json.loads((directory / "config.json").read_text())
    metrics = read_run(directory).metrics
    known = {name: metrics[name] for name in DIAGNOSTICS if name in metrics}
    return Run(
        env=str(description["config"]["env"]),
        variant=directory.parent.name,
        seed=int(description["config"]["seed"]),
        command=(directory / "command.txt").read_text().strip(),
        config=experiment_of(description["config"]),
        circumstances={name: description[name] for name in _CIRCUMSTANCES},
        wall_seconds=round(float(metrics["wall_seconds"][-1]), 1),
        evaluation=_rounded(json.loads((directory / "evaluation.json").read_text())),
        diagnostics={name: _summary(values) for name, values in known.items()},
        curve=_thinned(metrics),
    )


def _summary(values: np.ndarray) -> dict[str, float]:
    """Over the updates of a run, to four digits."""
    at = {"1st percentile": 1, "median": 50, "99th percentile": 99}
    return {name: float(f"{np.percentile(values, q):.4g}") for name, q in at.items()}


def _rounded(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    def shorter(value: Any) -> Any:
        if isinstance(value, list):
            return [shorter(item) for item in value]
        return round(value, 2) if isinstance(value, float) else value

    return {name: shorter(value) for name, value in evaluation.items()}


def _thinned(metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns = {name: metrics.get(name, np.full_like(metrics["env_steps"], np.nan)) for name in CURVE_FIELDS}
    known = np.flatnonzero(~np.isnan(columns["episode_return_mean"]))
    chosen = known[thin(len(known), _CURVE_POINTS)]
    evaluated = np.flatnonzero(~np.isnan(columns["evaluation_return_mean"]))
    rows = np.union1d(chosen, evaluated)
    return {
        name: np.round(column[rows], digits)
        for (name, column), digits in zip(columns.items(), _DECIMALS, strict=True)
    }


def _write_curves(runs: Sequence[Run], path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["env", "variant", "seed", *CURVE_FIELDS])
        for run in runs:
            for row in zip(*(run.curve[name] for name in CURVE_FIELDS), strict=True):
                writer.writerow([*run.key, *map(_entry, row)])


def _entry(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value == int(value) else repr(float(value))


def _read_curves(path: Path) -> dict[Key, dict[str, np.ndarray]]:
    rows: dict[Key, list[list[float]]] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            key = row["env"], row["variant"], int(row["seed"])
            rows.setdefault(key, []).append([float(row[name] or "nan") for name in CURVE_FIELDS])
    return {key: dict(zip(CURVE_FIELDS, np.array(values).T, strict=True)) for key, values in rows.items()}
