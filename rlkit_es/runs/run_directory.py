"""Where runs are on disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlkit_es.errors import InUseError, UserError
from rlkit_es.runs.checkpoint_store import CHECKPOINTS, CheckpointStore
from rlkit_es.runs.launch import is_of
from rlkit_es.training.config import Config

SEEDS = "seeds.json"  # in a directory of several seeds, each with a run directory in it


def default_run_directory(config: Config) -> Path:
    """runs/<env>/<algo>/seed<seed>-<time>."""
    return directory_called(f"seed{config.seed}", config)


def directory_called(name: str, config: Config) -> Path:
    """runs/<env>/<algo>/<name>-<time>."""
    env = re.sub(r"[^\w.-]+", "-", config.env)
    return Path("runs") / env / config.algo / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def claim(default: Path) -> Path:
    """``default``, made, or the same with a number where another run was given that just now.

    Raises:
        UserError: it cannot be written.
    """
    with _writing_to(default):
        default.parent.mkdir(parents=True, exist_ok=True)
        numbered = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
        for path in itertools.chain([default], numbered):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    return path


def place_of_run(config: Config, launch: Sequence[str]) -> tuple[Path | None, bool]:
    """Where a run goes, and whether it is to go on there because it was begun by this very launch.

    Args:
        config: of the run.
        launch: as of `launch_of`; a launch that starts its processes anew finds what they were at.

    Returns:
        None for the place where there is none yet: `claim` one.
    """
    place = config.run_dir
    if not launch:
        return place, False
    earlier = sorted(default_run_directory(config).parent.glob(f"seed{config.seed}-*"), reverse=True)
    for directory in [config.run_dir] if config.run_dir is not None else earlier:
        if is_of(directory, launch):
            if steps_saved(directory):
                return directory, True
            (directory / "metrics.csv").unlink(missing_ok=True)  # nothing came of it
            return directory, False
    return place, False


def create_run_directory(path: Path) -> None:
    """Make ``path``, and refuse one that holds a run.

    Raises:
        UserError: it cannot be written, or already holds a run.
    """
    with _writing_to(path):
        if (held := held_in(path)) is not None:
            raise UserError(
                f"run directory {path} already holds {held}; "
                f"choose another, or go on with it: --resume {path}"
            )
        checkpoints_of(path).mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()


@contextlib.contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    """Raises UserError: ``path`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write run directory {path}: {error.strerror}; choose another") from error


def held_in(path: Path) -> str | None:
    """In words, what was recorded in ``path``; None where nothing was."""
    return "several seeds" if holds_seeds(path) else "a run" if holds_run(path) else None


def holds_run(path: Path) -> bool:
    """Whether a run was recorded in ``path``."""
    return (path / "metrics.csv").exists() or bool(steps_saved(path))


def steps_saved(path: Path) -> list[int]:
    """Environment steps of the checkpoints of the run in ``path``, in order; none where there is no run."""
    return CheckpointStore(checkpoints_of(path)).steps()


def holds_seeds(path: Path) -> bool:
    """Whether several seeds were begun in ``path``."""
    return (path / SEEDS).exists()


def checkpoints_of(path: Path) -> Path:
    """Where the run in ``path`` has its checkpoints."""
    return path / CHECKPOINTS


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """No other process records a run in ``path`` meanwhile, where the system can tell.

    Raises:
        UserError: another one does, or it is not there.
    """
    if not checkpoints_of(path).is_dir():
        raise UserError(f"run directory {path} is not there any more, or not seen from {Path.cwd()}")
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    descriptor = os.open(checkpoints_of(path), os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError(f"run directory {path} is in use by another process") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
