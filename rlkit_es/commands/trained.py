"""What the commands share that take a trained policy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rlkit_es import algorithms
from rlkit_es.agent import Algorithm
from rlkit_es.commands.exit_code import exit_code
from rlkit_es.commands.options import import_modules
from rlkit_es.commands.outputs import output_file
from rlkit_es.errors import UserError
from rlkit_es.training.episodes import Episode
from rlkit_es.training.seeds import LARGEST_SEED

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""A run directory or a model file, as the first argument."""


def carry_out(command: Callable[..., None], name: str, arguments: Sequence[str] | None) -> int:
    """Have ``command`` do what the arguments of ``rlkit-es name`` say; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)

    def carry() -> None:
        _, rest = import_modules(given)
        tyro.cli(command, args=rest, prog=f"rlkit-es {name}")

    return exit_code(carry)


def load(run: Path, checkpoint: str) -> Algorithm:
    """`rlkit_es.load`, whose warnings are a line each.

    Raises:
        CheckpointError: it is damaged.
        UserError: there is none.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            agent = algorithms.load(run, checkpoint=checkpoint)
        except OSError as error:  # of a name that is too long, of a directory that may not be entered
            raise UserError(f"cannot read {run}: {error.strerror}") from error
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return agent


def describe(agent: Algorithm) -> str:
    """Environment, algorithm and steps, for the first words of a line."""
    return f"{agent.config.env} {agent.config.algo} at {agent.env_steps:,} steps"


def say_episode(number: int, episode: Episode) -> None:
    """Print how the episode with that number went, at once."""
    print(f"episode {number}: return {episode.episode_return:.1f} in {episode.length:,} steps", flush=True)


def output_beside(run: Path, output: Path | None, name: str, suffix: str) -> Path:
    """Where to write: ``output``, or ``name`` in a run directory, or beside a model file.

    Raises:
        UserError: that is no name of a file, or that of the model itself.
    """
    if output is None:
        beside = run / f"{name}{suffix}" if run.is_dir() else _beside_model(run, suffix)
    else:
        beside = output_file(output, suffix)
    if beside.resolve() in (run.resolve(), Path(f"{run}.safetensors").resolve()):
        raise UserError(f"--output {beside} would replace the model itself: give another")
    return beside


def _beside_model(model: Path, suffix: str) -> Path:
    """In place of the model's own suffix; the .5 of hopper-v0.5 is none."""
    return Path(f"{model}{suffix}") if model.suffix[1:].isdigit() else model.with_suffix(suffix)


def check_at_least(least: int, **values: int | None) -> None:
    """Every value that is given is at least ``least``.

    Raises:
        UserError: one is not.
    """
    for name, value in values.items():
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise UserError(f"--{option} must be a whole number of at least {least}, got {value}")


def check_seed(seed: int | None) -> None:
    """Whether it can be one.

    Raises:
        UserError: it cannot.
    """
    check_at_least(0, seed=seed)
    if seed is not None and seed > LARGEST_SEED:
        raise UserError(f"--seed must be at most {LARGEST_SEED}, got {seed}")
