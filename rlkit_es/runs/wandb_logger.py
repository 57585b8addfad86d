"""Logging to Weights & Biases: an extra."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkit_es.errors import UserError, first_line
from rlkit_es.runs.files import write_atomically

_INSTALL_WANDB = "pip install 'rlkit_es[wandb]'"


class WandbLogger:
    """Every metric to Weights & Biases, over environment steps.

    Args:
        project: to log to.
        directory: of the run; the run's id there is kept in it, so that going on adds to it.
        settings: shown as the configuration.

    Raises:
        UserError: wandb is not installed, or cannot begin.
    """

    def __init__(self, project: str, directory: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"wandb is not installed: {_INSTALL_WANDB}, or leave out --wandb") from error
        directory = directory.absolute()
        identity = _id_kept_in(directory)
        try:
            self._run: Any = wandb.init(
                project=project,
                dir=str(directory),
                id=identity,
                name="-".join(directory.parts[-3:]),
                config=dict(settings),
                resume="allow",
            )
        except Exception as error:  # of its network, its login or its service
            reason = first_line(error)
            raise UserError(f"wandb cannot begin ({reason}); WANDB_MODE=offline logs to disk") from error

    def log(self, metrics: dict[str, float]) -> None:
        shown = {name: value for name, value in metrics.items() if not math.isnan(value)}
        self._run.log(shown, step=int(metrics["env_steps"]))  # a step that it has already it ignores

    def flush(self) -> None:
        """It sends from a process of its own."""

    def close(self) -> None:
        self._run.finish()


def _id_kept_in(directory: Path) -> str:
    """The id of the run, made where there is none yet: not by the path, at which others may have been."""
    path = directory / "wandb-id"
    if path.exists():
        return path.read_text().strip()
    identity = secrets.token_hex(8)
    write_atomically(path, f"{identity}\n".encode())
    return identity
