"""``rlkit-es evaluate``: how good a trained policy is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rlkit_es.algorithms import evaluate
from rlkit_es.commands.trained import (
    Run,
    carry_out,
    check_at_least,
    check_seed,
    describe,
    load,
    output_beside,
)
from rlkit_es.runs.files import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; returns the exit code."""
    return carry_out(evaluate_run, "evaluate", arguments)


def evaluate_run(
    run: Run,
    /,
    episodes: int = 10,
    seed: int | None = None,
    checkpoint: str = "last",
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    output: Path | None = None,
) -> None:
    """Play whole episodes and print the mean and the standard deviation of their returns.

    On environments with seeds that training did not use, and with the observation statistics as they
    are. --import MODULE imports a module of yours first.

    Args:
        run: A run directory, or a model file.
        episodes: How many.
        seed: Of the environments; None: that of the evaluation at the end of training, which this repeats.
        checkpoint: Of a run directory: last, best, or environment steps.
        stochastic: Sample actions, as in training, rather than take the most likely ones.
        output: JSON file to write every return and length to.
    """
    check_at_least(1, episodes=episodes)
    check_seed(seed)
    agent = load(run, checkpoint)
    path = None if output is None else output_beside(run, output, "evaluation", ".json")
    evaluation = evaluate(agent, episodes, seed=seed, deterministic=not stochastic)
    print(
        f"{describe(agent)}: {evaluation.return_mean:.1f} +- {evaluation.return_std:.1f} over "
        f"{episodes} episode{'s' if episodes > 1 else ''}{' of sampled actions' if stochastic else ''}"
    )
    if path is not None:
        write_json(path, evaluation.as_dict())
        print(f"wrote {path}")
