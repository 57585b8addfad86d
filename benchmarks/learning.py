"""How well: a grid of recipes, environments and seeds, trained, evaluated and summarised.

    python benchmarks/learning.py --suite mujoco
    python benchmarks/learning.py --suite mujoco --algos espo sd_espo --envs 'Hopper*' --seeds 3
    python benchmarks/learning.py --suite mujoco --ray auto
    python benchmarks/learning.py --name mine --algos ppo espo --envs HalfCheetah-v4 --seeds 3

The suites are in grids/suites.py. Each cell of a grid is one ``python -m rlkit_es.run``; arguments
after ``--`` go to every one of them. A cell that has its evaluation is not run again, and one that was
interrupted goes on from its last checkpoint, so a grid is continued by the same command. Runs are
kept in runs/bench/<name>/, their curves in benchmarks/results/learning/<name>/, where they take the
place of what is committed there and leave the rest.
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

from command_line import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Parser, count
from grids.cells import Cell, describe_failure, path_name
from grids.figures import plot_curves
from grids.local_processes import LocalProcesses
from grids.ray_cluster import RayCluster
from grids.records import Run, digest, experiment_of, merge, read_committed, read_finished, write_committed
from grids.schedule import Executor, run_cells
from grids.suites import SUITES, Suite, find_suite, in_version_5, parse_variant, plain, select
from grids.tables import summarize
from machine import REPOSITORY

from rlkit_es import UserError
from rlkit_es.learners.recipes import find_recipe
from rlkit_es.run import parse
from rlkit_es.training.config import Config
from rlkit_es.training.environments import backend_of

RUNS = REPOSITORY / "runs" / "bench"
RESULTS = REPOSITORY / "benchmarks" / "results" / "learning"

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


def make_cells(grid: Suite, root: Path) -> list[Cell]:
    """The grid, a seed of everything before the next seed.

    Raises:
        UserError: a cell could not run, or was run before with other settings.
    """
    settings = ("--total-steps", str(grid.total_steps), *grid.settings)
    each = itertools.product(range(grid.seeds), dict.fromkeys(grid.envs), dict.fromkeys(grid.variants))
    cells = [Cell(variant, env, seed, root, settings) for seed, env, variant in each]
    for cell in cells:
        _check(cell)
    return cells


def _run(options: argparse.Namespace, further: Sequence[str]) -> int:
    grid, name = _choose(options, further)
    results = RESULTS / name
    committed = read_committed(results)
    failed: list[Cell] = []
    if not options.report_only:
        cells = make_cells(grid, RUNS / name)
        if options.missing:
            known = {(*run.key, digest(run.config)) for run in committed}
            cells = [cell for cell in cells if _identity(cell) not in known]
        failed = run_cells(cells, _executor(options))
        for cell in failed:
            print(f"error: {describe_failure(cell)}", file=sys.stderr)
    runs, outdated = merge(committed, read_finished(RUNS / name))
    for run in outdated:
        print(f"left out, run with other settings before: {run.variant} {run.env} seed {run.seed}")
    if runs:
        write_committed(runs, results)
        _write_summary(runs, results)
        print(f"{summarize(runs)}\nwrote {results}")
    elif options.report_only:
        raise UserError(f"no finished run under {RUNS / name}: leave --report-only out to run some")
    return EXIT_FAILED if failed else 0


def _executor(options: argparse.Namespace) -> Executor:
    if options.ray is None:
        return LocalProcesses(options.jobs or 2)
    return RayCluster(options.ray, options.jobs)


def _choose(options: argparse.Namespace, further: Sequence[str]) -> tuple[Suite, str]:
    """The grid that the command line describes, and its name."""
    for argument in further:
        name = argument.split("=")[0].removeprefix("--").replace("_", "-")
        if argument.startswith("--") and name in _OWN:
            raise UserError(f"{argument} after -- is for the grid to set: leave it out")
    if options.suite is None:
        if options.name is None:
            raise UserError(f"--suite or --name is missing; the suites are {', '.join(SUITES)}")
        variants = (*plain(*options.algos), *map(parse_variant, options.variant))
        grid = Suite(variants or plain("ppo", "espo", "sd_espo"), tuple(options.envs), 3, 1_000_000)
    else:
        if options.name is None and (further or options.total_steps or options.variant):
            raise UserError("a suite with other settings needs a name of its own: add --name")
        grid = find_suite(options.suite)
        grid = in_version_5(grid) if options.v5 else grid
        grid = select(grid, options.algos, options.envs)
        grid = dataclasses.replace(grid, variants=(*grid.variants, *map(parse_variant, options.variant)))
    if not grid.envs:
        raise UserError("--envs is missing: name environments, or a --suite")
    grid = dataclasses.replace(
        grid,
        seeds=options.seeds or grid.seeds,
        total_steps=options.total_steps or grid.total_steps,
        settings=(*grid.settings, *further),
    )
    return grid, options.name or (f"{options.suite}-v5" if options.v5 else options.suite)


def _check(cell: Cell) -> None:
    find_recipe(cell.variant.algo)
    config = parse(cell.arguments)
    backend_of(config)
    if not config.eval_episodes:
        raise UserError("--eval-episodes 0 leaves nothing to report: leave it out")
    if cell.finished or cell.begun:
        asked = experiment(config)
        ran = experiment_of(json.loads((cell.directory / "config.json").read_text())["config"])
        if different := sorted(name for name in asked | ran if asked.get(name) != ran.get(name)):
            raise UserError(
                f"{cell.directory} was run with another {', '.join(different)}: choose another --name"
            )


def _identity(cell: Cell) -> tuple[str, str, int, str]:
    return cell.env, cell.variant.name, cell.seed, digest(experiment(parse(cell.arguments)))


def experiment(config: Config) -> dict[str, object]:
    """What runs with other seeds share of ``config``, as it is committed."""
    return experiment_of(dataclasses.asdict(config))


def _write_summary(runs: Sequence[Run], directory: Path) -> None:
    (directory / "summary.md").write_text(summarize(runs))
    by_env: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        by_env.setdefault(run.env, {}).setdefault(run.variant, []).append(run)
    for env, by_variant in by_env.items():
        plot_curves(env, by_variant, directory / f"{path_name(env)}.png")


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, '.', '_' and '-', got {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", help=f"what to run: {', '.join(SUITES)}; the other arguments choose of it")
    parser.add_argument("--name", type=_name, help="of the results (default: the suite's)")
    parser.add_argument("--algos", nargs="+", default=[], help="recipes, or patterns of the suite's variants")
    parser.add_argument(
        "--variant", action="append", default=[], help="'name=algo --argument value ...'; may be repeated"
    )
    parser.add_argument("--envs", nargs="+", default=[], help="environment ids, or patterns of the suite's")
    parser.add_argument("--v5", action="store_true", help="Gymnasium's v5 of the suite's environments")
    parser.add_argument("--seeds", type=count, help="how many, from 0 (default: the suite's, or 3)")
    parser.add_argument("--total-steps", type=count, help="of each run (default: the suite's, or 1000000)")
    parser.add_argument(
        "--jobs", type=count, help="runs at a time (default: 2; on Ray, as many as have room)"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, or its head's HOST:PORT"
    )
    parser.add_argument(
        "--missing", action="store_true", help="leave out what is in the results with the same settings"
    )
    parser.add_argument("--report-only", action="store_true", help="rebuild the results from finished runs")
    return parser


if __name__ == "__main__":
    # Ended from outside, it ends the runs that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
