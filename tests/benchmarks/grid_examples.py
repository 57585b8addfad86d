"""Finished runs that were never run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from grids.records import CURVE_FIELDS, DIAGNOSTICS, Run, experiment_of

CIRCUMSTANCES = {
    "backend": "envpool",
    "update": "eager",
    "versions": {"torch": "2.13.0", "envpool": None},
    "python": "3.11",
    "platform": "Linux",
    "git_revision": "0123456789abcdef",
}


def make_run(
    env: str = "Hopper-v4",
    variant: str = "ppo",
    seed: int = 0,
    *,
    final: float = 100.0,
    evaluations: Sequence[float] = (10.0, 50.0),
    training: float = 90.0,
    config: Mapping[str, Any] | None = None,
    every: float = 100.0,
) -> Run:
    """A run of ``every`` steps a curve point, evaluated at each of them and at the end."""
    count = len(evaluations)
    columns = (
        every * np.arange(1, count + 1),
        np.arange(1.0, count + 1),
        np.linspace(0.0, training, count),
        np.array(evaluations, dtype=float),
    )
    spread = {"1st percentile": 0.5, "median": 1.0, "99th percentile": 2.0}
    return Run(
        env=env,
        variant=variant,
        seed=seed,
        command=f"python -m rlkit_es.run --algo {variant} --env {env} --seed {seed}",
        config=experiment_of({"env": env, "algo": variant, "total_steps": 1000, **(config or {})}),
        circumstances=CIRCUMSTANCES,
        wall_seconds=12.5,
        evaluation={
            "env_steps": 1000,
            "return_mean": final,
            "return_std": 3.0,
            "returns": [final - 3.0, final + 3.0],
        },
        diagnostics=dict.fromkeys(DIAGNOSTICS, spread),
        curve=dict(zip(CURVE_FIELDS, columns, strict=True)),
    )
