"""What a run leaves on disk, and what it says of itself."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rlkit_es.envs.registry import choose_backend
from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.errors import InUseError, UserError
from rlkit_es.runs.checkpoint_store import CHECKPOINTS, CheckpointStore
from rlkit_es.runs.files import write_atomically
from rlkit_es.runs.launch import is_of
from rlkit_es.training.config import Config
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.trainer import Trainer

SEEDS = "seeds.json"  # in a directory of several seeds, each with a run directory in it
_PACKAGES = (
    *("rlkit_es", "torch", "numpy", "gymnasium", "mujoco", "envpool"),
    *("ale-py", "dm-control", "shimmy", "opencv-python-headless"),
)


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
            if CheckpointStore(checkpoints_of(directory), 1).steps():
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
    return (path / "metrics.csv").exists() or bool(CheckpointStore(checkpoints_of(path), 1).steps())


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
        UserError: another one does.
    """
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


def describe_run(trainer: Trainer, launch: Sequence[str] = ()) -> dict[str, Any]:
    """Every setting, and what it ran with; ``launch`` of `launch_of`, by which a restart knows its run."""
    config = trainer.config
    settings = dataclasses.asdict(config)
    settings["run_dir"] = str(config.run_dir)
    backend, backend_reason = choose_backend(config.env, config.backend, config.num_envs)
    circumstances = {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_revision": _git_revision(),
    }
    return {
        "config": finite(settings),
        "backend": backend,
        "backend_reason": backend_reason,
        "update": trainer.compiles(config)[1],
        "env_seeds": env_seeds(derive_seeds(config.seed).envs, config.num_envs),
        "world_size": trainer.ranks.size,
        "launch": launch,
        **circumstances,
        "earlier": _earlier(trainer, circumstances),
    }


def _earlier(trainer: Trainer, now: Mapping[str, Any]) -> list[Any]:
    """Circumstances other than ``now`` in which the run was recorded before, and until when."""
    directory = trainer.config.run_dir
    if directory is None:
        return []
    try:
        last = json.loads((directory / "config.json").read_text())
        earlier, before = last.get("earlier", []), {name: last[name] for name in now}
    except (OSError, ValueError, AttributeError, LookupError, TypeError):  # none, or not ours
        return []
    return earlier if before == now else [*earlier, {"until_env_steps": trainer.progress.env_steps, **before}]


def finite(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same with words for infinite numbers, which JSON does not have."""
    endless = {k: str(v) for k, v in settings.items() if isinstance(v, float) and math.isinf(v)}
    return {**settings, **endless}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with a newline at the end; raises as `write_atomically`."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def versions() -> dict[str, str | None]:
    """Of the packages that decide what a run computes."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Of the library's own checkout, with a + where it has changes; None outside one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", "--", __file__):
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
