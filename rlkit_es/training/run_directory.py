"""What a run leaves on disk, and what it says of itself."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rlkit_es.envs.registry import choose_backend
from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.errors import UserError
from rlkit_es.learners.compilation import should_compile
from rlkit_es.training.config import Config
from rlkit_es.training.device import resolve_device
from rlkit_es.training.seeds import derive_seeds

_PACKAGES = ("rlkit_es", "torch", "numpy", "gymnasium", "mujoco", "envpool")


def default_run_directory(config: Config) -> Path:
    """runs/<env>/<algo>/seed<seed>-<time>."""
    env = re.sub(r"[^\w.-]+", "-", config.env)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / env / config.algo / f"seed{config.seed}-{stamp}"


def create_run_directory(path: Path) -> Path:
    """Make ``path``, and refuse one that holds a run.

    Raises:
        UserError: it cannot be written, or already holds a run.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write run directory {path}: {error.strerror}; choose another") from error
    if (path / "metrics.csv").exists():
        raise UserError(f"run directory {path} already holds a run; choose another")
    return path


def describe_run(config: Config) -> dict[str, Any]:
    """Every setting, and what it ran with."""
    settings = dataclasses.asdict(config)
    settings["run_dir"] = str(config.run_dir)
    backend, backend_reason = choose_backend(config.env, config.backend, config.num_envs)
    return {
        "config": settings,
        "backend": backend,
        "backend_reason": backend_reason,
        "update": should_compile(config.compile, config.total_steps, resolve_device(config.device))[1],
        "env_seeds": env_seeds(derive_seeds(config.seed).envs, config.num_envs),
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_revision": _git_revision(),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n")


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
