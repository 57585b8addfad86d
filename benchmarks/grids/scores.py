"""Returns on one scale, and the scores that others published."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import REPOSITORY
from seed_statistics import sample_std

from grids.records import Run
from rlkit_es.envs.ids import is_atari, is_dm_control

PUBLISHED_FILE = REPOSITORY / "benchmarks" / "results" / "published_scores.csv"
RANDOM_FILE = REPOSITORY / "benchmarks" / "results" / "random_scores.json"

# Random play and people, as in Wang et al., arXiv:1511.06581, table 2 (no-op starts).
_ATARI = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "BeamRider": (363.9, 16926.5),
    "Breakout": (1.7, 30.5),
    "Pong": (-20.7, 14.6),
}


class Scale(NamedTuple):
    """The returns that score 0 and 1."""

    zero: float
    one: float

    def score(self, episode_return: float) -> float:
        """On this scale."""
        return (episode_return - self.zero) / (self.one - self.zero)


@dataclass(frozen=True)
class Published:
    """A row of the table of published scores."""

    env: str  # as ``env_name`` gives it
    version: str
    algo: str
    library: str
    env_steps: int
    mean: float
    std: float
    protocol: str
    source: str

    @property
    def tuned_per_env(self) -> bool:
        """Whether its settings differ from environment to environment."""
        return "tuned per env" in self.library


def env_name(env_id: str) -> str:
    """An id as the published scores name it: HalfCheetah, Pong, dm_control/cheetah-run-v0."""
    return env_id if is_dm_control(env_id) else env_id.removeprefix("ALE/").rsplit("-v", 1)[0]


def read_published(path: Path = PUBLISHED_FILE) -> list[Published]:
    """Every published score."""
    with path.open(newline="") as stream:
        return [
            Published(
                **{name: row[name] for name in ("env", "version", "algo", "library", "protocol", "source")},
                env_steps=int(row["env_steps"]),
                mean=float(row["mean"]),
                std=float(row["std"]),
            )
            for row in csv.DictReader(stream)
        ]


def best_published(published: Sequence[Published], env_id: str, env_steps: int) -> Published | None:
    """The best mean within that many steps with one configuration for all environments."""
    known = [
        row
        for row in published
        if row.env == env_name(env_id) and row.env_steps <= env_steps and not row.tuned_per_env
    ]
    return max(known, key=lambda row: row.mean, default=None)


def find_scale(env_id: str, published: Sequence[Published], env_steps: int) -> Scale | None:
    """The scale of an environment, or None where nothing is known.

    MuJoCo: random play to the best published mean within the budget. DM Control: 0 to 1000. Atari: random
    play to people.
    """
    name = env_name(env_id)
    if is_atari(env_id):
        return Scale(*_ATARI[name]) if name in _ATARI else None
    if is_dm_control(env_id):
        return Scale(0.0, 1000.0)
    random = json.loads(RANDOM_FILE.read_text())["returns"]
    best = best_published(published, env_id, env_steps)
    return Scale(random[env_id], best.mean) if best and env_id in random else None


def describe_scale(env_id: str) -> str:
    """What 0 and 1 are in `find_scale`."""
    if is_atari(env_id):
        return "0 is random play, 1 a person"
    if is_dm_control(env_id):
        return "1 is a return of 1000"
    return "0 is random play, 1 the best published at this budget"


class Measured(NamedTuple):
    """A mean over seeds, and their standard deviation; NaN where the rule needs what was not measured."""

    mean: float
    std: float


def under_protocol(protocol: str, runs: Sequence[Run]) -> Measured:
    """What ``runs``, the seeds of one variant, score by the rule that ``protocol`` describes."""
    return _PROTOCOLS[_kind(protocol)](runs)


def describe_protocol(protocol: str) -> str:
    """The rule in a few words."""
    return _kind(protocol)


def _kind(protocol: str) -> str:
    if protocol.startswith("max over training"):
        return "max over training"
    if protocol.startswith(("one model", "best model")):
        return "best model"
    return "last training episodes" if "last episodes" in protocol else "final evaluation"


def _max_over_training(runs: Sequence[Run]) -> Measured:
    """The best point of the mean over seeds of the evaluations."""
    returns = _common_evaluations(runs)
    if returns.shape[1] == 1:
        return Measured(math.nan, math.nan)  # no maximum over one
    best = int(returns.mean(axis=0).argmax())
    return _measured(returns[:, best].tolist())


def _common_evaluations(runs: Sequence[Run]) -> np.ndarray:
    """(seeds, points) returns where all ``runs`` were evaluated, within an iteration, and at the end."""
    seldom = min((run.evaluations[0] for run in runs), key=len)
    columns = []
    for step in seldom[:-1]:
        column = [_evaluated_near(run, step) for run in runs]
        if None not in column:
            columns.append(column)
    return np.array([*columns, [run.final_return for run in runs]], dtype=float).T


def _evaluated_near(run: Run, step: float) -> float | None:
    """The return of the evaluation during training that is at most an iteration away from ``step``."""
    steps, returns = (values[:-1] for values in run.evaluations)
    away = np.abs(steps - step)
    iteration = run.config["num_envs"] * run.config["rollout_steps"]
    return float(returns[away.argmin()]) if len(away) and away.min() <= iteration else None


def _best_model(runs: Sequence[Run]) -> Measured:
    """The best seed's evaluation; the deviation is over its episodes."""
    best = max(runs, key=lambda run: run.final_return)
    return Measured(best.final_return, float(best.evaluation["return_std"]))


def _last_episodes(runs: Sequence[Run]) -> Measured:
    return _measured([run.final_training_return for run in runs])


def _final(runs: Sequence[Run]) -> Measured:
    return _measured([run.final_return for run in runs])


def _measured(values: Sequence[float]) -> Measured:
    return Measured(float(np.mean(values)), sample_std(values))


_PROTOCOLS: Mapping[str, Callable[[Sequence[Run]], Measured]] = {
    "max over training": _max_over_training,
    "best model": _best_model,
    "last training episodes": _last_episodes,
    "final evaluation": _final,
}
