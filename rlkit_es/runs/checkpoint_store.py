"""The checkpoints of one run: the last few, and the best."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path

from rlkit_es.errors import CheckpointError, UserError
from rlkit_es.runs.checkpoint_file import read_checkpoint, write_checkpoint
from rlkit_es.runs.files import TEMPORARY
from rlkit_es.training.checkpoint import Checkpoint, take_checkpoint
from rlkit_es.training.trainer import Trainer

CHECKPOINTS = "checkpoints"  # in a run directory
_SUFFIX = ".safetensors"


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Have the first rank write a checkpoint; to all that return it is there.

    Raises:
        UserError: it cannot be written.
        NonFiniteError: a parameter is NaN or infinite.
    """
    checkpoint = take_checkpoint(trainer)
    if trainer.ranks.first:
        write_checkpoint(path, checkpoint)
    trainer.ranks.from_first(None)


class CheckpointStore:
    """``directory``/step-<env steps>.safetensors, and best.safetensors beside them.

    Args:
        directory: exists; where it was removed, saving says so and does not make it anew.
        keep: how many of the last ones stay.

    Of the ranks that train together the first alone writes; the others take part in what is written.
    """

    def __init__(self, directory: Path, keep: int = 1) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint of ``trainer`` and remove those that are too old.

        Raises:
            UserError: it cannot be written.
            NonFiniteError: a parameter is NaN or infinite.
        """
        path = self._path(trainer.progress.env_steps)
        save_checkpoint(trainer, path)
        if trainer.ranks.first:
            for step in self.steps()[: -self.keep]:
                with contextlib.suppress(OSError):  # it costs room and no more
                    self._path(step).unlink()
        return path

    def save_if_best(self, trainer: Trainer, mean_return: float) -> None:
        """Write best.safetensors if ``mean_return`` is more than any before; NaN never is.

        It is written before the next of the last ones, whose progress says so: a run that is killed
        between the two does both again.

        Raises:
            UserError: it cannot be written.
        """
        if mean_return > trainer.progress.best_return:
            trainer.progress.best_return = mean_return
            save_checkpoint(trainer, self._best)

    def steps(self) -> list[int]:
        """Environment steps of the ones that are there, in order."""
        paths = self.directory.glob(f"step-*{_SUFFIX}")
        steps = [int(match[1]) for path in paths if (match := re.fullmatch(r"step-([0-9]{1,30})", path.stem))]
        return sorted({step for step in steps if self._path(step).exists()})

    def load(self, which: str | int = "last") -> tuple[Checkpoint, list[CheckpointError]]:
        """One of them.

        Args:
            which: "last", "best", or environment steps.

        Returns:
            the checkpoint, and what is wrong with later ones, if "last" had to pass them over.

        Raises:
            CheckpointError: it is damaged, and for "last" so are all the others.
            UserError: there is none.
        """
        which, steps = str(which), self.steps()
        if which == "best" and self._best.exists():
            return read_checkpoint(self._best), []
        if which.isdecimal() and len(which) < 100 and int(which) in steps:
            return read_checkpoint(self._path(int(which))), []
        if which != "last" or not steps:
            there = [*map(str, steps), *(["best"] if self._best.exists() else [])]
            raise UserError(
                f"no checkpoint {which} in {self.directory}: there is {', '.join(there) or 'none at all'}"
            )
        damaged: list[CheckpointError] = []
        for step in reversed(steps):
            try:
                return read_checkpoint(self._path(step)), damaged
            except CheckpointError as error:
                damaged.append(error)
        raise damaged[0]

    def forget_after(self, env_steps: int) -> None:
        """Remove what a run that goes on from ``env_steps`` will write again, and unfinished files."""
        late = [self._path(step) for step in self.steps() if step > env_steps]
        for path in [*late, *self.directory.glob(f".*{TEMPORARY}")]:
            with contextlib.suppress(OSError):
                path.unlink()

    @property
    def _best(self) -> Path:
        return self.directory / f"best{_SUFFIX}"

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:012d}{_SUFFIX}"


def refuse_several(path: Path) -> None:
    """Raises UserError: ``path`` is no run, and holds some."""
    if not (path / CHECKPOINTS).is_dir() and (runs := sorted(path.glob(f"*/{CHECKPOINTS}"))):
        raise UserError(f"{path} is not one run: choose {' or '.join(str(run.parent) for run in runs[:10])}")


def find_checkpoint(path: Path, which: str | int = "last") -> Checkpoint:
    """A checkpoint from wherever a user may point to, with a warning where later ones are damaged.

    Args:
        path: a checkpoint file, a run directory or its directory of checkpoints.
        which: of a directory, as of `CheckpointStore.load`; of a file there is the last alone.

    Raises:
        CheckpointError: it is damaged.
        UserError: there is none, or no choice.
    """
    try:
        is_directory = path.is_dir()
        saved = Path(f"{path}{_SUFFIX}")  # where `save` puts it
        if not is_directory and not path.exists() and saved.exists():
            path = saved
    except OSError as error:  # of a name that is too long, or below a directory that may not be read
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not is_directory:
        if which != "last":
            raise UserError(f"{path} is one file: a checkpoint is chosen among those of a run directory")
        return read_checkpoint(path)
    refuse_several(path)
    inside = path / CHECKPOINTS
    found, damaged = CheckpointStore(inside if inside.is_dir() else path).load(which)
    for reason in damaged:
        warnings.warn(f"{reason}; taking the one before it", stacklevel=4)
    return found
