"""Several seeds of one experiment in one process: a run directory each, and one line of progress."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from rlkit_es.errors import UserError
from rlkit_es.learners.lockstep import Lockstep
from rlkit_es.runs.experiment import begin, going_on, summary
from rlkit_es.runs.files import write_json
from rlkit_es.runs.logging import ConsoleLogger
from rlkit_es.runs.resume import SavedRun, open_run
from rlkit_es.runs.run_directory import SEEDS, directory_called, held_in
from rlkit_es.training.callbacks import Logger
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.memory import memory_errors_said, require_room, resident_bytes
from rlkit_es.training.trainer import Trainer


def default_directory(config: Config, count: int) -> Path:
    """runs/<env>/<algo>/seeds<first>-<last>-<time>."""
    return directory_called(f"seeds{config.seed}-{config.seed + count - 1}", config)


def make_trainers(config: Config, count: int) -> list[Trainer]:
    """Of ``count`` seeds from that of ``config`` on.

    Raises:
        UserError: they cannot be trained together, there is no room for them, or as of `Trainer`.
    """
    trainers: list[Trainer] = []
    with memory_errors_said(count):
        for seed in range(config.seed, config.seed + count):
            before = resident_bytes()
            trainers.append(Trainer(dataclasses.replace(config, seed=seed)))
            if len(trainers) == 1:
                _require_alike(trainers[0])
            if len(trainers) <= 2:  # the first loads libraries, the second shows what a seed takes
                trainers[-1].begin_segment()
            if len(trainers) == 2:
                require_room(trainers[-1], count - 2, resident_bytes() - before)
    return trainers


def begin_all(trainers: Sequence[Trainer], directory: Path) -> None:
    """Make each a run directory in ``directory``, before training.

    Raises:
        UserError: one cannot be written, or holds a run.
    """
    if (held := held_in(directory)) is not None:
        raise UserError(f"run directory {directory} already holds {held}; choose another for these seeds")
    for trainer in trainers:
        own = _directory_of(directory, trainer.config.seed)
        trainer.config = dataclasses.replace(trainer.config, run_dir=own)
        begin(trainer, trainer.config.total_steps)
    write_json(directory / SEEDS, {"seeds": [trainer.config.seed for trainer in trainers]})


def open_seeds(directory: Path) -> list[SavedRun]:
    """The last good checkpoint of each seed that was begun in ``directory``; raises as `open_run`."""
    try:
        seeds = [int(seed) for seed in json.loads((directory / SEEDS).read_text())["seeds"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{directory / SEEDS} cannot be read: {error}") from error
    return [open_run(_directory_of(directory, seed)) for seed in seeds]


def go_on_together(trainers: Sequence[Trainer]) -> dict[int, Evaluation | None]:
    """Train all until their stages end, and evaluate each; its evaluation by seed.

    Raises:
        NonFiniteError: that of the first seed that failed, the others having come to their end.
        UserError: as of `Trainer.train`.
    """
    print(summary(trainers[0]), flush=True)
    seeds = [trainer.config.seed for trainer in trainers]
    print(f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}, update together", flush=True)
    config = trainers[0].config
    line = ConsoleLogger(trainers[0].progress.stage_end, f"{config.algo} {config.env} x {len(seeds)}")
    shown = _SeedsProgress(line)
    requests = [going_on(trainer, progress=False, loggers=[shown]) for trainer in trainers]
    lockstep = Lockstep(requests)
    try:
        with memory_errors_said(len(seeds)):
            evaluations = lockstep.run()
        shown.show()
    finally:
        line.close()
    for number, error in lockstep.failures.items():
        raise type(error)(f"seed {seeds[number]}, {error}; the others have ended well") from error
    return {seeds[number]: evaluations[number] for number in sorted(evaluations)}


class _SeedsProgress(Logger):
    """One line for the iterations that the seeds make side by side."""

    def __init__(self, line: Logger) -> None:
        self._line = line
        self._rows: list[dict[str, float]] = []

    def log(self, metrics: dict[str, float]) -> None:
        if self._rows and self._rows[0]["iteration"] != metrics["iteration"]:
            self.show()
        self._rows.append(metrics)

    def show(self) -> None:
        """The iteration that all have ended."""
        if not self._rows:
            return
        returns = [row["episode_return_mean"] for row in self._rows]
        known = [value for value in returns if not math.isnan(value)]
        self._line.log(
            {
                "env_steps": min(row["env_steps"] for row in self._rows),
                "wall_seconds": max(row["wall_seconds"] for row in self._rows),
                "episode_return_mean": sum(known) / len(known) if known else math.nan,
                "steps_per_second": sum(row["steps_per_second"] for row in self._rows),
            }
        )
        self._rows = []


def _directory_of(directory: Path, seed: int) -> Path:
    return directory / f"seed{seed}"


def _require_alike(trainer: Trainer) -> None:
    """Refuse what seeds cannot do together.

    Raises:
        UserError: it is asked for.
    """
    policy, why = trainer.policy, None
    if trainer.config.wandb is not None:
        why = "--wandb takes one run of a process"
    elif trainer.spaces.observation.pixels:
        why = "an update on pictures fills the machine by itself"
    elif [*policy.actor.buffers(), *policy.critic.buffers()]:
        why = f"the network {trainer.config.network!r} has buffers, which cannot be stacked"
    if why is not None:
        raise UserError(f"several seeds cannot be trained together here: {why}; start them one by one")
