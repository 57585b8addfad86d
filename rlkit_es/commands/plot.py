"""``rlkit-es plot``: the diagnostics of runs, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rlkit_es.commands.exit_code import exit_code
from rlkit_es.commands.outputs import output_file
from rlkit_es.errors import UserError
from rlkit_es.runs.plots import plot_diagnostics
from rlkit_es.runs.run_records import find_runs, group_seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(lambda: tyro.cli(draw, args=arguments, prog="rlkit-es plot"))


def draw(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    output: Path = Path("diagnostics.png"),
    smooth: int = 10,
) -> None:
    """Draw how far each update moved the policy, and which samples moved it, as one figure.

    Runs that differ by their seed alone become one line, the mean, with a band from the lowest seed
    to the highest.

    Args:
        runs: Run directories, or directories that hold some.
        output: Where to write; the suffix decides the format: png (also without one), pdf, svg.
        smooth: Iterations that a moving mean is taken over; 1 draws the metrics as they are.
    """
    if not runs:
        raise UserError("name at least one run directory")
    if smooth < 1:
        raise UserError(f"smooth must be a whole number of at least 1, got {smooth}")
    output = output_file(output, ".png")
    groups = group_seeds(find_runs(runs))
    plot_diagnostics(groups, output, smooth=smooth)
    for label, members in groups.items():
        print(f"{label}: {len(members)} run{'s' if len(members) > 1 else ''}")
    print(f"wrote {output}")
