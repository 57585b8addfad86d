"""``--num-seeds``: several seeds of one experiment, trained in one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlkit_es.commands.resumption import changed_settings, command_to_go_on, result_of, say
from rlkit_es.errors import DivergedError, InUseError, UserError
from rlkit_es.ranks import Ranks
from rlkit_es.runs.interruption import Interrupted
from rlkit_es.runs.resume import continued
from rlkit_es.runs.run_directory import claim, steps_saved
from rlkit_es.runs.seed_runs import begin_all, default_directory, go_on_together, make_trainers, open_seeds
from rlkit_es.training.config import Config
from rlkit_es.training.memory import memory_errors_said
from rlkit_es.training.trainer import Trainer


def train(config: Config, count: str, imported: Sequence[str], ranks: Ranks) -> None:
    """Train ``count`` seeds from that of ``config`` on.

    Raises:
        UserError: ``count`` is not one, or as of `make_trainers` and `go_on_together`.
    """
    _require_one_process(ranks)
    if not (count.isdecimal() and count.isascii()) or int(count) < 1:
        raise UserError(f"--num-seeds must be a whole number of at least 1, got {count!r}")
    trainers = make_trainers(config, int(count))
    directory = config.run_dir or claim(default_directory(config, int(count)))
    begin_all(trainers, directory)
    _go_on(trainers, directory, imported)


def resume(directory: Path, arguments: Sequence[str], imported: Sequence[str], ranks: Ranks) -> None:
    """Go on with the seeds in ``directory``, with other settings where ``arguments`` say so.

    Raises:
        UserError: as of `continued` for any of them, or as of `go_on_together`.
    """
    _require_one_process(ranks)
    saved = open_seeds(directory)
    trainers: list[Trainer] = []
    said: dict[str, None] = {}
    warnings: dict[str, None] = {}
    with memory_errors_said(len(saved)):
        for one in saved:
            trainer, lines = continued(one, changed_settings(one.config, directory, arguments))
            trainers.append(trainer)
            said |= dict.fromkeys(lines)
            warnings |= dict.fromkeys(one.warnings)
    least = min(trainer.progress.env_steps for trainer in trainers)
    print(f"going on with {len(trainers)} seeds in {directory} from {least:,} steps", flush=True)
    say(said, warnings)
    _go_on(trainers, directory, imported)


def _go_on(trainers: Sequence[Trainer], directory: Path, imported: Sequence[str]) -> None:
    """Train, and say how each seed ended."""
    try:
        evaluations = go_on_together(trainers)
    except (DivergedError, InUseError):  # there is nothing to go on with
        raise
    except (Interrupted, UserError):
        _say_how_to_go_on(trainers, directory, imported)
        raise
    finally:
        for trainer in trainers:
            trainer.close()
    for seed, evaluation in evaluations.items():
        if evaluation is not None:
            print(f"seed {seed}: {result_of(evaluation)}")
    print(f"run directories: {directory}/seed*")


def _say_how_to_go_on(trainers: Sequence[Trainer], directory: Path, imported: Sequence[str]) -> None:
    saved = []
    for trainer in trainers:
        assert trainer.config.run_dir is not None
        saved.append(steps_saved(trainer.config.run_dir))
    if not all(saved):
        return
    print(
        f"at {min(trainer.progress.env_steps for trainer in trainers):,} steps of each seed; the last "
        f"checkpoints are at {min(steps[-1] for steps in saved):,}\n"
        f"to go on: {command_to_go_on(trainers[0], directory, imported)}",
        flush=True,
    )


def _require_one_process(ranks: Ranks) -> None:
    if ranks.size > 1:
        raise UserError(
            "--num-seeds trains seeds in one process, and torchrun one seed in several: leave one of them out"
        )
