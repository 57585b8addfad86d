"""``python -m rlkit_es.run``: train one policy and leave a run directory."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import tyro

from rlkit_es.errors import UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.config import Config
from rlkit_es.training.experiment import run
from rlkit_es.training.run_directory import default_run_directory
from rlkit_es.training.trainer import Trainer

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        config = parse(arguments)
        if config.run_dir is None:
            config = dataclasses.replace(config, run_dir=default_run_directory(config))
        train(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def parse(arguments: Sequence[str]) -> Config:
    """The configuration that the arguments describe, over the defaults of their algorithm."""
    defaults = Config.for_algorithm(_algorithm(arguments))
    return tyro.cli(
        Config,
        args=list(arguments),
        default=defaults,
        prog="python -m rlkit_es.run",
        description="Train a policy. Defaults shown are those of the algorithm named by --algo.",
    )


def train(config: Config) -> None:
    """Run, and say how it ended."""
    trainer = Trainer(config)
    try:
        evaluation = run(trainer, config.total_steps, progress=True)
    finally:
        trainer.close()
    if evaluation is not None:
        print(
            f"deterministic evaluation over {evaluation.episodes} episodes: "
            f"{evaluation.return_mean:.1f} +- {evaluation.return_std:.1f}"
        )
    print(f"run directory: {config.run_dir}")


def _algorithm(arguments: Sequence[str]) -> str:
    """The value of --algo, needed before the rest: it decides the defaults."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--algo="):
            return argument.removeprefix("--algo=")
        if argument == "--algo" and i + 1 < len(arguments):
            return arguments[i + 1]
    if {"--help", "-h"} & set(arguments):
        return "espo"
    raise UserError(f"--algo is needed: one of {', '.join(RECIPES)}")


if __name__ == "__main__":
    sys.exit(main())
