"""A run from start to end, or from its last checkpoint on: train, record, evaluate, draw."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rlkit_es.learners.requests import Requests, carried_out
from rlkit_es.models.encoders import arithmetic
from rlkit_es.runs.checkpoint_store import CheckpointStore
from rlkit_es.runs.files import write_json, writing
from rlkit_es.runs.launch import launch_of
from rlkit_es.runs.logging import ConsoleLogger, CsvLogger, TensorBoardLogger
from rlkit_es.runs.plots import plot_learning_curve
from rlkit_es.runs.run_description import DESCRIPTION, describe_run
from rlkit_es.runs.run_directory import (
    checkpoints_of,
    claimed,
    create_run_directory,
)
from rlkit_es.runs.run_records import numbers_of, rows_until
from rlkit_es.runs.wandb_logger import WandbLogger
from rlkit_es.training.callbacks import Callback, Hooks, Logger
from rlkit_es.training.environments import backend_of
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.memory import memory_errors_said
from rlkit_es.training.trainer import Trainer

# Steps of one environment between checkpoints, under which what that does to episodes is worth a line.
_SHORT_SEGMENT = 2_000


class History(Logger):
    """Keeps every iteration's metrics in memory."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def log(self, metrics: dict[str, float]) -> None:
        """Keep one iteration."""
        self.metrics.append(metrics)


def run(
    trainer: Trainer,
    total_steps: int,
    *,
    progress: bool,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
) -> Evaluation | None:
    """Train for ``total_steps`` and leave a run directory where ``trainer.config`` names one.

    Args:
        trainer: fresh, or trained before: then its run directory goes on, where it has begun one.
        total_steps: environment steps to add.
        progress: whether to say on the terminal what is going on.
        loggers: to log to beside those of the run directory.
        callbacks: that take part.

    Returns:
        the final evaluation; None without a run directory, or where ``eval_episodes`` is 0.

    Raises:
        UserError: as of `Trainer.train`, or the run directory cannot be used.
    """
    begin(trainer, total_steps)
    return go_on(trainer, progress=progress, loggers=loggers, callbacks=callbacks)


def begin(trainer: Trainer, total_steps: int) -> None:
    """The part of `run` before training."""
    trainer.begin_stage(total_steps)
    directory = trainer.config.run_dir
    if directory is not None and not trainer.recorded:
        if trainer.ranks.first:
            create_run_directory(directory)
        trainer.progress.forget_best()  # what is best is so among what this directory holds
        trainer.recorded = True


def go_on(
    trainer: Trainer,
    *,
    progress: bool,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
) -> Evaluation | None:
    """`run` for a trainer whose stage of training was begun; its run directory exists."""
    with memory_errors_said():
        return carried_out(going_on(trainer, progress=progress, loggers=loggers, callbacks=callbacks))


def going_on(
    trainer: Trainer,
    *,
    progress: bool,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
) -> Requests[Evaluation | None]:
    """`go_on`, whose iterations and whose loops over minibatches are asked for."""
    config, first = trainer.config, trainer.ranks.first
    launch = launch_of(trainer.ranks)
    history = History()
    watching: list[Logger] = [history, *loggers] if first else []
    progress = progress and first
    if progress:
        print(summary(trainer), flush=True)
    with contextlib.ExitStack() as stack:
        store = None
        if config.run_dir is not None:
            store = CheckpointStore(checkpoints_of(config.run_dir), config.keep_checkpoints)
            if first:
                stack.enter_context(claimed(config.run_dir))
                store.forget_after(trainer.progress.env_steps)
                write_json(config.run_dir / DESCRIPTION, describe_run(trainer, launch))
                earlier = rows_until(config.run_dir / "metrics.csv", trainer.progress.env_steps)
                history.metrics += map(numbers_of, earlier)
                watching += _open_loggers(trainer, config.run_dir, earlier)
        if progress:  # last: from here on the terminal is its own, until it is closed
            watching.append(ConsoleLogger(trainer.progress.stage_end, f"{config.algo} {config.env}"))
        hooks = Hooks(watching, callbacks, store)
        try:
            yield from trainer.going_on(hooks)
        finally:
            for logger in watching:
                logger.close()
        if progress:
            _say_how_it_went(trainer, history)
            if config.run_dir is not None and config.eval_episodes:
                print(f"evaluating {config.eval_episodes} episodes", flush=True)
        return None if config.run_dir is None else _finish(trainer, config.run_dir, history, callbacks)


def _open_loggers(trainer: Trainer, directory: Path, earlier: Sequence[dict[str, str]]) -> list[Logger]:
    steps, project = trainer.progress.env_steps, trainer.config.wandb
    opened: list[Logger] = [
        CsvLogger(directory / "metrics.csv", earlier),
        TensorBoardLogger(directory / "tensorboard", steps + 1),
    ]
    if project is not None:
        opened.append(WandbLogger(project, directory, describe_run(trainer)))
    return opened


def _say_how_it_went(trainer: Trainer, history: History) -> None:
    if failed := sum(m.get("line_search_failed", 0.0) for m in history.metrics):
        print(
            f"the line search failed in {failed:.0f} of {len(history.metrics)} updates, "
            "which left the policy as it was"
        )
    if trainer.stop_reason is not None:
        print(f"stopped at {trainer.progress.env_steps:,} steps: {trainer.stop_reason}")


def _finish(
    trainer: Trainer, directory: Path, history: History, callbacks: Sequence[Callback]
) -> Evaluation | None:
    evaluation = None
    if trainer.config.eval_episodes:
        evaluation = trainer.evaluate(trainer.config.eval_episodes)
        if trainer.ranks.first:
            write_json(directory / "evaluation.json", evaluation.as_dict())
        for callback in callbacks:
            callback.on_evaluation(trainer, evaluation)
    if not trainer.ranks.first:
        return evaluation
    with writing(directory / "learning_curve.png"):
        plot_learning_curve(history.metrics, evaluation, directory / "learning_curve.png")
    return evaluation


def summary(trainer: Trainer) -> str:
    """What will run on what, in a few lines."""
    config = trainer.config
    backend, reason = backend_of(config)
    env_threads = trainer.share.env_threads or "one a core"
    torch_threads = config.torch_threads or "one a core"
    device, observation = trainer.device, trainer.spaces.observation
    pictures = f", pictures in {_arithmetic_of(trainer)}" if observation.pixels else ""
    lines = (
        f"{config.algo} on {config.env}: {config.total_steps:,} steps, seed {config.seed}\n"
        f"backend {backend}: {reason}\n"
        f"threads: torch {torch_threads}, envs {env_threads}; "
        f"device {device}{pictures}; update {trainer.compiles(config)[1]}"
    )
    if (ranks := trainer.ranks).size > 1:
        lines += (
            f"\n{ranks.size} ranks ({ranks.local_size} on this machine), each with "
            f"{trainer.share.num_envs} of {config.num_envs} environments and "
            f"{trainer.share.minibatch_size} of {config.minibatch_size} samples of a minibatch"
        )
    each = config.segment_steps // config.num_envs
    if 0 < each < _SHORT_SEGMENT and config.segment_steps < config.total_steps:
        lines += (
            f"\na checkpoint every {each:,} steps of each environment: longer episodes are cut there, "
            "and their returns not reported"
        )
    return lines


def _arithmetic_of(trainer: Trainer) -> str:
    return str(arithmetic(trainer.config.precision, trainer.device.type)).removeprefix("torch.")
