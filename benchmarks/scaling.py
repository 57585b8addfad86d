"""How the speed of training grows: with ranks, and with environments, batch and network in one process.

    python benchmarks/scaling.py                    # on an idle machine; half an hour
    python benchmarks/scaling.py --ranks 1 2 4 --env Humanoid-v4

Every run is a command of its own, and the first quarter of it is not counted. Runs take turns, round by
round, so that a machine that is slower for a while is slower for all; ratios are taken within a round.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from command_line import EXIT_INTERRUPTED, EXIT_USER_ERROR, Parser, count
from grids.tables import compared_rates, table
from machine import describe_machine, one_line, save
from measured.runs import CommandError, settled_speed, train


class Point(NamedTuple):
    """One run of the report."""

    section: str
    name: str  # of its row
    column: str
    settings: tuple[str, ...]
    ranks: int = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save as the command line says; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    print(one_line(describe_machine()))
    points = plan(chosen)
    speeds: dict[Point, list[float]] = {point: [] for point in points}
    try:
        for number in range(chosen.rounds):
            for point in points:
                speeds[point].append(_speed(point, chosen))
                said = f"round {number + 1}/{chosen.rounds}: {point.name}, {point.column}"
                print(f"{said}: {speeds[point][-1]:,.0f} steps/s", file=sys.stderr, flush=True)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    for section in dict.fromkeys(point.section for point in points):
        print(f"\n{section}\n", *table_of(section, speeds), sep="\n")
    save(chosen.output, _content(chosen, speeds))
    return 0


def plan(chosen: Namespace) -> list[Point]:
    """All runs. The first of each row is what the others of it are compared with."""
    by_ranks = [
        Point("ranks", f"{envs} environments", f"{ranks} rank{'s' * (ranks > 1)}", _envs(envs), ranks)
        for envs in chosen.num_envs
        for ranks in chosen.ranks
    ]
    eager = [
        Point("ranks", f"{envs} environments", "1 rank, eager", (*_envs(envs), "--compile", "off"))
        for envs in chosen.num_envs
    ]
    default = Point("one process", "steps/s", "defaults", ())
    changes = {
        "8 environments": _envs(8, rollout_steps=256),
        "256 environments, 8 steps each": _envs(256, rollout_steps=8),
        "256 environments": _envs(256),
        "128 steps of each": ("--rollout-steps", "128"),
        "minibatches of 1,024": ("--minibatch-size", "1024"),
        "networks of 256 x 256": ("--hidden-sizes", "256", "256"),
    }
    alone = [Point("one process", "steps/s", name, settings) for name, settings in changes.items()]
    return [*by_ranks, *eager, default, *alone]


def table_of(section: str, speeds: Mapping[Point, Sequence[float]]) -> list[str]:
    """Medians of a section, and in brackets what they are of the first in their row."""
    points = [point for point in speeds if point.section == section]
    columns = list(dict.fromkeys(point.column for point in points))
    rows = []
    for name in dict.fromkeys(point.name for point in points):
        of_row = {point.column: speeds[point] for point in points if point.name == name}
        rows.append([name, *compared_rates({column: of_row[column] for column in columns})])
    if len(rows) == 1:  # read downwards where there is one row
        return table(["", rows[0][0]], [list(pair) for pair in zip(columns, rows[0][1:], strict=True)])
    return table(["", *columns], rows)


def _envs(number: int, rollout_steps: int = 32) -> tuple[str, ...]:
    return ("--num-envs", str(number), "--rollout-steps", str(rollout_steps))


def _speed(point: Point, chosen: Namespace) -> float:
    own = ("--algo", chosen.algo, "--env", chosen.env, "--total-steps", str(chosen.steps))
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "run"
        train(f"{point.name}, {point.column}", [*own, *point.settings], directory, point.ranks)
        return settled_speed(directory)


def _content(chosen: Namespace, speeds: Mapping[Point, Sequence[float]]) -> dict[str, object]:
    return {
        "arguments": {name: value for name, value in vars(chosen).items() if name != "output"},
        "steps/s": [{**point._asdict(), "rounds": list(rates)} for point, rates in speeds.items()],
    }


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--algo", default="espo", help="what is trained")
    parser.add_argument("--env", default="HalfCheetah-v4", help="on what")
    parser.add_argument("--ranks", nargs="+", type=count, default=[1, 2], help="processes of one run")
    parser.add_argument("--num-envs", nargs="+", type=count, default=[16, 64, 256], help="of all ranks")
    parser.add_argument("--steps", type=count, default=120_000, help="of each run")
    parser.add_argument("--rounds", type=count, default=3, help="over which medians are taken")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
