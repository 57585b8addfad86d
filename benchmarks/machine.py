"""What a benchmark ran on: the kind of machine and the versions, no names of machines or people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

_PACKAGES = (
    *("torch", "numpy", "gymnasium", "mujoco", "envpool", "ale-py", "dm-control"),
    *("stable_baselines3", "sb3_contrib", "tianshou"),
)


def describe_machine() -> dict[str, str]:
    """Kind of machine and versions, by name."""
    return {
        "CPU": cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def one_line(facts: Mapping[str, str]) -> str:
    """For the head of what a benchmark prints."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or its architecture where Linux does not tell."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def git_revision() -> str:
    """The checkout's commit, with a + where tracked files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def save(path: Path | None, content: Mapping[str, Any]) -> None:
    """``content`` as JSON, after what it was measured on; nowhere where ``path`` is None."""
    if path is not None:
        measured = {"machine": describe_machine(), "git revision": git_revision(), **content}
        path.write_text(json.dumps(measured, indent=2) + "\n")
