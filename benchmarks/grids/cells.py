"""The cells of a grid: which training run each one is, and where it lies."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from machine import REPOSITORY

from grids.suites import Variant
from rlkit_es.runs.run_directory import steps_saved


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
        return self.arguments_in(short(self.directory))

    def arguments_in(self, directory: str) -> tuple[str, ...]:
        """With another run directory."""
        chosen = ("--algo", self.variant.algo, "--env", self.env, "--seed", str(self.seed))
        threads = ("--torch-threads", "1", "--env-threads", "1")
        return (*chosen, *threads, "--run-dir", directory, *self.settings, *self.variant.settings)

    def next_arguments(self, directory: str) -> tuple[str, ...]:
        """Those that begin the run in ``directory``, or go on with it where it was begun."""
        return ("--resume", directory) if self.begun else self.arguments_in(directory)

    @property
    def command(self) -> str:
        """To be typed in the repository."""
        return _typed(self.arguments)

    @property
    def next_command(self) -> str:
        """Begins it or goes on with it, typed in the repository."""
        return _typed(self.next_arguments(short(self.directory)))

    @property
    def finished(self) -> bool:
        """Whether it ran to its evaluation."""
        return (self.directory / "evaluation.json").exists()

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from: more than the checkpoint before the first step."""
        steps = steps_saved(self.directory)
        return bool(steps) and steps[-1] > 0


def prepare(cell: Cell) -> None:
    """Make its directory ready for its `Cell.next_arguments`."""
    if not cell.begun:
        shutil.rmtree(cell.directory, ignore_errors=True)  # a run refuses what is left of another
        cell.directory.mkdir(parents=True)
        (cell.directory / "command.txt").write_text(cell.command + "\n")


def path_name(env: str) -> str:
    """An environment id as a file name."""
    return re.sub(r"[^\w.-]+", "-", env)


def short(path: Path) -> str:
    """Relative to the repository, where it lies there."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def last_words(cell: Cell) -> str:
    """The last line that it printed."""
    lines = cell.log.read_text(errors="replace").strip().splitlines() if cell.log.exists() else []
    return lines[-1] if lines else "it printed nothing"


def describe_failure(cell: Cell) -> str:
    """One line: which cell, its last words, and where the others are."""
    return f"{cell.variant.name} {cell.env} seed {cell.seed} failed: {last_words(cell)} ({short(cell.log)})"


def _typed(arguments: tuple[str, ...]) -> str:
    return shlex.join(["python", "-m", "rlkit_es.run", *arguments])
