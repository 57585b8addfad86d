"""How well: a grid of algorithms, environments and seeds, trained, evaluated and summarised.

    python benchmarks/learning.py --name mujoco --algos ppo espo --envs HalfCheetah-v4 --seeds 3

Each cell of the grid is one ``python -m rlkit_es.run``; arguments after ``--`` go to every one of
them. A cell that has its evaluation is not run again, and one that was interrupted goes on from its
last checkpoint, so a grid is continued by the same command. Runs are kept in runs/bench/<name>/,
results in benchmarks/results/learning/<name>/.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import EXIT_USER_ERROR, Parser, count
from learning_grid import Cell, describe_failure, run_cells
from learning_report import read_cells, summarize, write_report
from machine import REPOSITORY

from rlkit_es import UserError
from rlkit_es.envs.registry import choose_backend
from rlkit_es.learners.recipes import find_recipe
from rlkit_es.run import parse

RUNS = REPOSITORY / "runs" / "bench"
RESULTS = REPOSITORY / "benchmarks" / "results" / "learning"

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

_OWN = ("algo", "env", "seed", "total-steps", "torch-threads", "env-threads", "run-dir")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grid as the command line says and write its results; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = _parser().parse_args(arguments[:split])
    try:
        return _run(options, arguments[split + 1 :])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the finished cells", file=sys.stderr)
        return EXIT_INTERRUPTED


def make_cells(options: argparse.Namespace, further: Sequence[str], root: Path) -> list[Cell]:
    """The grid, a seed of everything before the next seed.

    Raises:
        UserError: a cell could not run, or was run before with other settings.
    """
    for argument in further:
        name = argument.split("=")[0].removeprefix("--").replace("_", "-")
        if argument.startswith("--") and name in _OWN:
            raise UserError(f"{argument} after -- is for the grid to set: leave it out")
    settings = ("--total-steps", str(options.total_steps), *further)
    grid = itertools.product(range(options.seeds), dict.fromkeys(options.envs), dict.fromkeys(options.algos))
    cells = [Cell(algo, env, seed, root, settings) for seed, env, algo in grid]
    for cell in cells:
        _check(cell)
    return cells


def _run(options: argparse.Namespace, further: Sequence[str]) -> int:
    root = RUNS / options.name
    failed: list[Cell] = []
    if not options.report_only:
        failed = run_cells(make_cells(options, further, root), options.jobs)
        for cell in failed:
            print(f"error: {describe_failure(cell)}", file=sys.stderr)
    finished = read_cells(root)
    if finished:
        write_report(finished, RESULTS / options.name)
        print(f"{summarize(finished)}\nwrote {RESULTS / options.name}")
    elif options.report_only:
        raise UserError(f"no finished run under {root}: leave --report-only out to run some")
    return EXIT_FAILED if failed else 0


def _check(cell: Cell) -> None:
    find_recipe(cell.algo)
    config = parse(cell.arguments)
    choose_backend(config.env, config.backend, config.num_envs)
    if not config.eval_episodes:
        raise UserError("--eval-episodes 0 leaves nothing to report: leave it out")
    if cell.finished or cell.begun:
        asked = _settings(json.loads(json.dumps(dataclasses.asdict(config), default=str)))
        ran = _settings(json.loads((cell.directory / "config.json").read_text())["config"])
        if different := sorted(name for name in asked | ran if asked.get(name) != ran.get(name)):
            raise UserError(
                f"{cell.directory} was run with another {', '.join(different)}: choose another --name"
            )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "run_dir"}


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, '.', '_' and '-', got {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", type=_name, required=True, help="of the folders of runs and results")
    parser.add_argument("--algos", nargs="+", default=["ppo", "espo", "sd_espo"], help="recipes")
    parser.add_argument(
        "--envs", nargs="+", default=["HalfCheetah-v4", "Walker2d-v4"], help="environment ids"
    )
    parser.add_argument("--seeds", type=count, default=3, help="how many, from 0 (default 3)")
    parser.add_argument("--total-steps", type=count, default=1_000_000, help="of each run (default 1000000)")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time (default 2)")
    parser.add_argument("--report-only", action="store_true", help="rebuild the results from finished runs")
    return parser


if __name__ == "__main__":
    # Ended from outside, it ends the runs that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
