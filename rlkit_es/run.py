"""``python -m rlkit_es.run``: train one policy and leave a run directory, or go on with one."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from rlkit_es.commands.exit_code import exit_code
from rlkit_es.commands.options import import_modules, take
from rlkit_es.errors import UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.runs.checkpoint_store import CheckpointStore
from rlkit_es.runs.experiment import go_on, run
from rlkit_es.runs.interruption import Interrupted
from rlkit_es.runs.resume import continued, open_run
from rlkit_es.runs.run_directory import checkpoints_of, default_run_directory
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.presets import PRESETS
from rlkit_es.training.trainer import Trainer

_PROGRAM = "python -m rlkit_es.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> None:
    imported, arguments = import_modules(arguments)
    directory, rest = take(arguments, "--resume")
    if directory is not None:
        resume(Path(directory), rest, imported)
        return
    config = parse(arguments)
    if config.run_dir is None:
        config = dataclasses.replace(config, run_dir=default_run_directory(config))
    trainer = Trainer(config)
    _train(trainer, lambda: run(trainer, config.total_steps, progress=True), imported)


def parse(arguments: Sequence[str]) -> Config:
    """The configuration that the arguments describe, over the defaults of their algorithm and preset.

    Raises:
        UserError: no algorithm is named, or a value cannot be used.
    """
    # All three decide what the defaults are, so they are needed before the rest.
    algo, _ = take(arguments, "--algo")
    preset, arguments = take(arguments, "--preset")
    env, _ = take(arguments, "--env")
    if algo is None and {"--help", "-h"} & set(arguments):
        algo = "espo"
    if algo is None:
        raise UserError(f"--algo is needed: one of {', '.join(RECIPES)}; or --resume RUN_DIR")
    return tyro.cli(
        Config,
        args=list(arguments),
        default=Config.for_algorithm(algo, preset=preset, **({} if env is None else {"env": env})),
        prog=_PROGRAM,
        description=(
            "Train a policy. Defaults shown are those of the algorithm named by --algo for environments like "
            f"--env, and with --preset {{{','.join(PRESETS)}}} those of a published experiment. "
            "--resume RUN_DIR goes on with a run that was stopped; --import MODULE imports a module of yours "
            "first."
        ),
    )


def resume(directory: Path, arguments: Sequence[str], imported: Sequence[str] = ()) -> None:
    """Go on with the run in ``directory``.

    Args:
        directory: of the run.
        arguments: settings that are to be otherwise from here on.
        imported: modules that were imported for it.

    Raises:
        UserError: there is no run, a setting may not change, or as of `Trainer.train`.
    """
    saved = open_run(directory)
    changed = tyro.cli(
        Config,
        args=list(arguments),
        default=saved.config,
        prog=f"{_PROGRAM} --resume {directory}",
        description="Go on with a run. Defaults shown are its settings.",
    )
    trainer, said = continued(saved, changed)
    print(f"going on with {directory} from {trainer.progress.env_steps:,} steps", flush=True)
    for line in said:
        print(line, flush=True)
    for line in saved.warnings:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    _train(trainer, lambda: go_on(trainer, progress=True), imported)


def _train(trainer: Trainer, train: Callable[[], Evaluation | None], imported: Sequence[str]) -> None:
    """Carry out ``train``, and say how it ended."""
    directory = trainer.config.run_dir
    assert directory is not None
    try:
        evaluation = train()
    except (Interrupted, UserError):
        _say_how_to_go_on(trainer, directory, imported)
        raise
    finally:
        trainer.close()
    if evaluation is not None:
        print(
            f"deterministic evaluation over {evaluation.episodes} episodes: "
            f"{evaluation.return_mean:.1f} +- {evaluation.return_std:.1f}"
        )
    print(f"run directory: {directory}")


def _say_how_to_go_on(trainer: Trainer, directory: Path, imported: Sequence[str]) -> None:
    saved = CheckpointStore(checkpoints_of(directory), 1).steps()
    if not saved or trainer.progress.stage_end == 0:  # refused before anything was begun
        return
    at = trainer.progress.env_steps
    module, _, _ = trainer.config.env.rpartition(":")
    modules = dict.fromkeys([*imported, *([module] if module else [])])
    options = [option for module in modules for option in ("--import", module)]
    command = ["python", "-m", "rlkit_es.run", "--resume", str(directory), *options]
    print(
        f"at {at:,} steps; the last checkpoint is at {saved[-1]:,}, "
        f"so {at - saved[-1]:,} steps will be done again\n"
        f"to go on: {shlex.join(command)}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
