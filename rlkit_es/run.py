"""``python -m rlkit_es.run``: train one policy and leave a run directory, or go on with one."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit_es.commands import seeds_together
from rlkit_es.commands.exit_code import exit_code
from rlkit_es.commands.options import import_modules, take
from rlkit_es.commands.resumption import PROGRAM, changed_settings, command_to_go_on, result_of, say
from rlkit_es.commands.settings import parse_config
from rlkit_es.errors import DivergedError, InUseError, UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.runs.experiment import go_on, run
from rlkit_es.runs.interruption import Interrupted
from rlkit_es.runs.launch import launch_of, together
from rlkit_es.runs.resume import SavedRun, continued, open_together
from rlkit_es.runs.run_directory import (
    claim,
    default_run_directory,
    holds_seeds,
    place_of_run,
    steps_saved,
)
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.idle import refuse_idle
from rlkit_es.training.presets import PRESETS
from rlkit_es.training.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(lambda: together(lambda ranks: _main(arguments, ranks)))


def _main(arguments: Sequence[str], ranks: Ranks) -> None:
    imported, arguments = import_modules(arguments)
    directory, rest = take(arguments, "--resume")
    if directory is not None:
        resume(Path(directory), rest, imported, ranks)
        return
    count, arguments = take(arguments, "--num-seeds")
    config = parse(arguments)
    import_modules(
        ["--import", config.env_module] if config.env_module else []
    )  # from the current directory too
    if count is not None:
        seeds_together.train(config, count, imported, ranks)
        return
    launch = launch_of(ranks)
    place, begun = ranks.from_first(place_of_run(config, launch) if ranks.first else (None, False))
    if begun:
        assert place is not None
        config = dataclasses.replace(config, run_dir=place)
        _go_on(open_together(place, ranks), vars(config), imported, ranks)
        return
    trainer = Trainer(config, ranks=ranks)
    if place is None:
        place = ranks.from_first(claim(default_run_directory(config)) if ranks.first else None)
    trainer.config = dataclasses.replace(config, run_dir=place)
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
    defaults = Config.for_algorithm(algo, preset=preset, **({} if env is None else {"env": env}))
    config = parse_config(
        arguments,
        defaults,
        prog=PROGRAM,
        description=(
            "Train a policy. Defaults shown are those of the algorithm named by --algo for environments like "
            f"--env, and with --preset {{{','.join(PRESETS)}}} those of a published experiment. "
            "--num-seeds S trains S seeds in this process, from --seed on. --resume RUN_DIR goes on with a "
            "run that was stopped; --import MODULE imports a module of yours first."
        ),
    )
    refuse_idle(config, vars(defaults))
    return config


def resume(
    directory: Path, arguments: Sequence[str], imported: Sequence[str] = (), ranks: Ranks = ALONE
) -> None:
    """Go on with the run in ``directory``.

    Args:
        directory: of the run, or of several seeds that were trained together.
        arguments: settings that are to be otherwise from here on.
        imported: modules that were imported for it.
        ranks: that go on with it together.

    Raises:
        UserError: there is no run, a setting may not change, or as of `Trainer.train`.
    """
    for option in ("--preset", "--num-seeds"):
        if take(arguments, option)[0] is not None:
            raise UserError(
                f"{option} is for a new run, and --resume goes on with one as it was: leave it out"
            )
    if holds_seeds(directory):
        seeds_together.resume(directory, arguments, imported, ranks)
        return
    saved = open_together(directory, ranks)
    _go_on(saved, changed_settings(saved.config, directory, arguments), imported, ranks)


def _go_on(saved: SavedRun, settings: Mapping[str, Any], imported: Sequence[str], ranks: Ranks) -> None:
    """Train on with ``settings``, which may differ from what was ``saved`` in what may change."""
    trainer, said = continued(saved, settings, ranks)
    print(f"going on with {saved.config.run_dir} from {trainer.progress.env_steps:,} steps", flush=True)
    say(said, saved.warnings)
    _train(trainer, lambda: go_on(trainer, progress=True), imported)


def _train(trainer: Trainer, train: Callable[[], Evaluation | None], imported: Sequence[str]) -> None:
    """Carry out ``train``, and say how it ended."""
    directory = trainer.config.run_dir
    assert directory is not None
    try:
        evaluation = train()
    except (DivergedError, InUseError):  # there is nothing to go on with
        raise
    except (Interrupted, UserError):
        _say_how_to_go_on(trainer, directory, imported)
        raise
    finally:
        trainer.close()
    if evaluation is not None:
        print(result_of(evaluation))
    print(f"run directory: {directory}")


def _say_how_to_go_on(trainer: Trainer, directory: Path, imported: Sequence[str]) -> None:
    saved = steps_saved(directory)
    if not saved or not trainer.recorded:  # refused before anything was begun
        return
    at = trainer.progress.env_steps
    print(
        f"at {at:,} steps; the last checkpoint is at {saved[-1]:,}, "
        f"so {at - saved[-1]:,} steps will be done again\n"
        f"to go on: {command_to_go_on(trainer, directory, imported)}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
