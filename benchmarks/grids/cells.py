"""Runs cells of a benchmark as processes, a few at a time."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import REPOSITORY

from grids.suites import Variant
from rlkit_es.runs.checkpoint_store import CheckpointStore
from rlkit_es.runs.run_directory import checkpoints_of

_ATTEMPTS = 2
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Cell:
    """One training run."""

    variant: Variant
    env: str
    seed: int
    root: Path  # of all cells' directories
    settings: tuple[str, ...]  # arguments of every run of the grid

    @property
    def directory(self) -> Path:
        """Its run directory."""
        return self.root / path_name(self.env) / self.variant.name / f"seed{self.seed}"

    @property
    def log(self) -> Path:
        """What it printed, all attempts."""
        return self.directory.with_suffix(".log")

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of ``python -m rlkit_es.run``."""
        chosen = ("--algo", self.variant.algo, "--env", self.env, "--seed", str(self.seed))
        threads = ("--torch-threads", "1", "--env-threads", "1")
        return (
            *chosen,
            *threads,
            "--run-dir",
            _short(self.directory),
            *self.settings,
            *self.variant.settings,
        )

    @property
    def command(self) -> str:
        """To be typed in the repository."""
        return shlex.join(["python", "-m", "rlkit_es.run", *self.arguments])

    @property
    def finished(self) -> bool:
        """Whether it ran to its evaluation."""
        return (self.directory / "evaluation.json").exists()

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from: more than the checkpoint before the first step."""
        steps = CheckpointStore(checkpoints_of(self.directory), 1).steps()
        return bool(steps) and steps[-1] > 0


def path_name(env: str) -> str:
    """An environment id as a file name."""
    return re.sub(r"[^\w.-]+", "-", env)


def run_cells(cells: Sequence[Cell], jobs: int) -> list[Cell]:
    """Run the cells that are not finished, ``jobs`` at a time, each at most twice.

    Returns:
        those that failed both times.
    """
    waiting = deque((cell, 1) for cell in cells if not cell.finished)
    print(f"cells: {len(cells)}, finished before: {len(cells) - len(waiting)}", flush=True)
    running: dict[subprocess.Popen[bytes], tuple[Cell, int]] = {}
    failed: list[Cell] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell, attempt = waiting.popleft()
                running[_start(cell)] = (cell, attempt)
            time.sleep(_POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                cell, attempt = running.pop(process)
                if cell.finished:
                    print(f"finished: {_short(cell.directory)}", flush=True)
                elif attempt < _ATTEMPTS:
                    print(f"failed, once more: {_short(cell.directory)}: {_last_line(cell)}", flush=True)
                    waiting.append((cell, attempt + 1))
                else:
                    failed.append(cell)
    finally:
        for process in running:
            process.terminate()
            process.wait()
    return failed


def describe_failure(cell: Cell) -> str:
    """One line: which cell, its last words, and where the others are."""
    return f"{cell.variant.name} {cell.env} seed {cell.seed} failed: {_last_line(cell)} ({_short(cell.log)})"


def _start(cell: Cell) -> subprocess.Popen[bytes]:
    arguments = cell.arguments
    if cell.begun:
        arguments = ("--resume", _short(cell.directory))
    else:
        shutil.rmtree(cell.directory, ignore_errors=True)  # a run refuses what is left of another
        cell.directory.mkdir(parents=True)
        (cell.directory / "command.txt").write_text(cell.command + "\n")
    print(shlex.join(["python", "-m", "rlkit_es.run", *arguments]), flush=True)
    command = [sys.executable, "-m", "rlkit_es.run", *arguments]
    with cell.log.open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=REPOSITORY)


def _last_line(cell: Cell) -> str:
    lines = cell.log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _short(path: Path) -> str:
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
