"""What a run says of itself, in config.json."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.training.environments import backend_of
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.trainer import Trainer

DESCRIPTION = "config.json"  # in a run directory
_PACKAGES = (
    *("rlkit_es", "torch", "numpy", "gymnasium", "mujoco", "envpool"),
    *("ale-py", "dm-control", "shimmy", "opencv-python-headless"),
)


def describe_run(trainer: Trainer, launch: Sequence[str] = ()) -> dict[str, Any]:
    """Every setting, and what it ran with; ``launch`` of `launch_of`, by which a restart knows its run."""
    config = trainer.config
    settings = dataclasses.asdict(config)
    settings["run_dir"] = str(config.run_dir)
    backend, backend_reason = backend_of(config)
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
    last = described(directory)
    if not now.keys() <= last.keys():
        return []
    earlier, before = last.get("earlier", []), {name: last[name] for name in now}
    return earlier if before == now else [*earlier, {"until_env_steps": trainer.progress.env_steps, **before}]


def described(directory: Path) -> Mapping[str, Any]:
    """What the run in ``directory`` last said of itself; empty where that is missing or damaged."""
    try:
        found = json.loads((directory / DESCRIPTION).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def finite(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same with words for infinite numbers, which JSON does not have."""
    endless = {k: str(v) for k, v in settings.items() if isinstance(v, float) and math.isinf(v)}
    return {**settings, **endless}


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
