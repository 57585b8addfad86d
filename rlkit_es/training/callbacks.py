"""What takes part in training: loggers take numbers, callbacks may act, a store keeps checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlkit_es.errors import UserError
from rlkit_es.training.evaluate import Evaluation

if TYPE_CHECKING:
    from rlkit_es.training.trainer import Trainer


class Logger(Protocol):
    """Takes the metrics of each iteration. Inherit from it, and write only what is needed."""

    def log(self, metrics: dict[str, float]) -> None:
        """Record one iteration; ``env_steps`` is among the metrics, and grows."""
        ...

    def flush(self) -> None:
        """A checkpoint is about to be written: what was logged so far must not be lost."""
        return

    def close(self) -> None:
        """Training has ended, well or not."""
        return


class Callback:
    """Is called as training goes on. Inherit from it, and write only what is needed.

    Everything is called between updates, in the process and thread of the training loop. What is
    changed in the trainer changes the run, which then is no longer a function of its settings and seed.
    """

    def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """An update was made and logged. ``trainer.request_stop(reason)`` makes it the last."""

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """A periodic evaluation (`eval_every`) or the final one has ended."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """The checkpoint at ``path`` is complete and on disk."""


def check_hooks(loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> None:
    """Raises UserError: one of them is not what it should be."""
    kinds = (("loggers", Logger, loggers), ("callbacks", Callback, callbacks))
    for name, kind, given in kinds:
        methods = [method for method in vars(kind) if not method.startswith("_")]
        if not isinstance(given, Sequence):
            raise UserError(f"{name} must be a list, got {given!r}")
        for each in given:
            if isinstance(each, type) or not all(callable(getattr(each, m, None)) for m in methods):
                inherits = f"objects of a class that inherits from {kind.__name__}"
                raise UserError(f"{name} must be {inherits}, got {each!r}")


class Store(Protocol):
    """Where checkpoints go."""

    def save(self, trainer: Trainer) -> Path:
        """Keep what training goes on from after a segment has ended."""
        ...

    def save_if_best(self, trainer: Trainer, mean_return: float) -> None:
        """Keep the policy as it is, if no other did better."""
        ...


@dataclass(frozen=True)
class Hooks:
    """What takes part in training."""

    loggers: Sequence[Logger] = ()
    callbacks: Sequence[Callback] = ()
    store: Store | None = None
