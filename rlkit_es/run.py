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
from rlkit_es.training.presets import PRESETS
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
    """The configuration that the arguments describe, over the defaults of their algorithm and preset.

    Raises:
        UserError: no algorithm is named, or a value cannot be used.
    """
    # Both decide what the defaults are, so they are needed before the rest.
    algo, _ = _take(arguments, "--algo")
    preset, arguments = _take(arguments, "--preset")
    if algo is None and {"--help", "-h"} & set(arguments):
        algo = "espo"
    if algo is None:
        raise UserError(f"--algo is needed: one of {', '.join(RECIPES)}")
    return tyro.cli(
        Config,
        args=list(arguments),
        default=Config.for_algorithm(algo, preset=preset),
        prog="python -m rlkit_es.run",
        description=(
            "Train a policy. Defaults shown are those of the algorithm named by --algo, and with "
            f"--preset {{{','.join(PRESETS)}}} those of a published experiment."
        ),
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


def _take(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The last value of ``option``, None where it is not given, and the arguments without it."""
    value, rest = None, []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == option:
            value = next(remaining, None)
            if value is None:
                raise UserError(f"{option} needs a value")
        elif argument.startswith(f"{option}="):
            value = argument.removeprefix(f"{option}=")
        else:
            rest.append(argument)
    return value, rest


if __name__ == "__main__":
    sys.exit(main())
