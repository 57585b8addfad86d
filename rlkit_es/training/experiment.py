"""A run from start to end: train, record, evaluate, draw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlkit_es.envs.registry import choose_backend
from rlkit_es.learners.compilation import should_compile
from rlkit_es.training.config import Config
from rlkit_es.training.device import resolve_device
from rlkit_es.training.evaluate import Evaluation, evaluate_policy
from rlkit_es.training.logging import ConsoleLogger, CsvLogger, Logger, TensorBoardLogger
from rlkit_es.training.plots import plot_learning_curve
from rlkit_es.training.run_directory import (
    create_run_directory,
    describe_run,
    write_json,
)
from rlkit_es.training.trainer import Trainer


class History:
    """Keeps every iteration's metrics in memory."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def log(self, metrics: dict[str, float]) -> None:
        """Keep one iteration."""
        self.metrics.append(metrics)

    def close(self) -> None:
        """Nothing is buffered."""


def run(trainer: Trainer, total_steps: int, *, progress: bool) -> Evaluation | None:
    """Train for ``total_steps`` and leave a run directory where ``trainer.config`` names one.

    Args:
        trainer: fresh, or trained before.
        total_steps: environment steps to add.
        progress: whether to say on the terminal what is going on.

    Returns:
        the final evaluation; None without a run directory, or where ``eval_episodes`` is 0.
    """
    config = dataclasses.replace(trainer.config, total_steps=total_steps)
    directory = None if config.run_dir is None else create_run_directory(config.run_dir)
    history = History()
    loggers: list[Logger] = [history]
    if progress:
        print(summary(config), flush=True)
        description = f"{config.algo} {config.env}"
        loggers.append(ConsoleLogger(trainer.progress.env_steps + total_steps, description))
    if directory is not None:
        write_json(directory / "config.json", describe_run(config))
        loggers += [CsvLogger(directory / "metrics.csv"), TensorBoardLogger(directory / "tensorboard")]
    try:
        trainer.train(total_steps, loggers)
    finally:
        for logger in loggers:
            logger.close()
    if progress and (failed := sum(m.get("line_search_failed", 0.0) for m in history.metrics)):
        print(
            f"the line search failed in {failed:.0f} of {len(history.metrics)} updates, "
            "which left the policy as it was"
        )
    return None if directory is None else _finish(trainer, config, history, directory)


def _finish(trainer: Trainer, config: Config, history: History, directory: Path) -> Evaluation | None:
    evaluation = None
    if config.eval_episodes:
        evaluation = evaluate_policy(
            trainer.policy,
            config,
            episodes=config.eval_episodes,
            env_steps=trainer.progress.env_steps,
        )
        write_json(directory / "evaluation.json", evaluation.as_dict())
    plot_learning_curve(history.metrics, evaluation, directory / "learning_curve.png")
    return evaluation


def summary(config: Config) -> str:
    """What will run on what, in a few lines."""
    backend, reason = choose_backend(config.env, config.backend, config.num_envs)
    env_threads = config.env_threads or "one a core"
    device = resolve_device(config.device)
    return (
        f"{config.algo} on {config.env}: {config.total_steps:,} steps, seed {config.seed}\n"
        f"backend {backend}: {reason}\n"
        f"threads: torch {config.torch_threads}, envs {env_threads}; "
        f"device {device}; update {should_compile(config.compile, config.total_steps, device)[1]}"
    )
