"""Whole runs, each a command of its own, and how fast they trained."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class CommandError(Exception):
    """A run did not end well."""


def train(name: str, settings: Sequence[str], directory: Path, ranks: int = 1) -> None:
    """Run to the end, without checkpoints and evaluation.

    Args:
        name: of the run, for the error.
        settings: arguments of ``python -m rlkit_es.run``.
        directory: of the run.
        ranks: processes, by torchrun if there are several.

    Raises:
        CommandError: it ended otherwise; with what it said last.
    """
    starter = [sys.executable, "-m"]
    if ranks > 1:
        starter += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    command = [
        *(*starter, "rlkit_es.run", *settings, "--run-dir", str(directory)),
        *("--eval-episodes", "0", "--checkpoint-every", "0"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines() or ["it said nothing"]
        errors = [line for line in said if line.startswith("error:")] or said
        raise CommandError(f"{name} ended with {ended.returncode}: {errors[-1]}")


def last_row(directory: Path) -> tuple[float, float]:
    """Steps and seconds of training."""
    steps, seconds = _rows(directory)[-1]
    return steps, seconds


def settled_speed(directory: Path) -> float:
    """Steps a second after the first quarter, in which things are compiled and loaded."""
    rows = _rows(directory)
    (early, began), (late, ended) = rows[len(rows) // 4], rows[-1]
    return (late - early) / (ended - began)


def _rows(directory: Path) -> list[tuple[float, float]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [(float(row["env_steps"]), float(row["wall_seconds"])) for row in csv.DictReader(file)]
