"""Several seeds in one process (``--num-seeds``) against a process for each seed, some at a time.

    python benchmarks/seeds.py                                 # on a CPU
    python benchmarks/seeds.py --device cuda --seeds 8 --jobs 1

Both ways train the same seeds, in turns, so that whatever else the machine does falls on both. The first
round compiles and is not counted. Where others use the machine too, two processes get more of it than one:
then the CPU seconds, of starting and training, say more than the rest.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from command_line import EXIT_USER_ERROR, Parser, count
from machine import describe_machine, one_line
from measured.runs import CommandError, last_row, train

from rlkit_es.envs.registry import usable_cores


class Outcome(NamedTuple):
    """How fast all seeds came to their end."""

    steps_per_second: float  # of all seeds together, while they trained
    seconds: float  # from the start of the first process to the end of the last
    cpu_seconds: float  # of all processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    print(one_line(describe_machine()))
    ways: dict[str, Callable[[str, Namespace, Path], float]] = {
        f"{chosen.jobs} at a time": one_by_one,
        "together": together,
    }
    print(f"{chosen.seeds} seeds of {chosen.env}, {chosen.steps:,} steps each, device {chosen.device}\n")
    print("| | " + " | ".join(f"{way}: steps/s, s, CPU s" for way in ways) + " | gain: steps/s, s, CPU s |")
    print("|---|---|---|---|")
    try:
        for algo in chosen.algos:
            rounds = [
                [_measured(way, algo, chosen) for way in ways.values()] for _ in range(chosen.rounds + 1)
            ][1:]
            print(row_of(algo, rounds), flush=True)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def row_of(algo: str, rounds: Sequence[Sequence[Outcome]]) -> str:
    """A line of the table: medians over rounds, of each way and of the gain within a round."""
    ways = [Outcome(*map(statistics.median, zip(*way, strict=True))) for way in zip(*rounds, strict=True)]
    cells = [f"{way.steps_per_second:,.0f}, {way.seconds:.0f}, {way.cpu_seconds:.0f}" for way in ways]
    gains = [
        (
            new.steps_per_second / old.steps_per_second,
            old.seconds / new.seconds,
            old.cpu_seconds / new.cpu_seconds,
        )
        for old, new in rounds
    ]
    spreads = (
        f"{statistics.median(gain):.2f} ({min(gain):.2f} to {max(gain):.2f})"
        for gain in zip(*gains, strict=True)
    )
    return f"| {algo} | {' | '.join(cells)} | {', '.join(spreads)} |"


def one_by_one(algo: str, chosen: Namespace, place: Path) -> float:
    """A process for each seed, ``jobs`` of them at a time; steps a second of those at a time."""
    directories = [place / f"seed{seed}" for seed in range(chosen.seeds)]
    threads = str(max(1, usable_cores() // chosen.jobs))
    with ThreadPoolExecutor(chosen.jobs) as pool:
        runs = [
            pool.submit(_train, algo, chosen, directory, "--seed", str(seed), "--env-threads", threads)
            for seed, directory in enumerate(directories)
        ]
        for run in runs:
            run.result()
    speeds = [steps / seconds for steps, seconds in map(last_row, directories)]
    return min(chosen.jobs, chosen.seeds) * statistics.mean(speeds)


def together(algo: str, chosen: Namespace, place: Path) -> float:
    """One process for all seeds; steps a second of them all."""
    threads = ("--torch-threads", str(chosen.torch_threads))
    _train(algo, chosen, place / "seeds", "--num-seeds", str(chosen.seeds), *threads)
    rows = [last_row(path.parent) for path in place.glob("seeds/*/metrics.csv")]
    return sum(steps for steps, _ in rows) / max(seconds for _, seconds in rows)


def _measured(way: Callable[[str, Namespace, Path], float], algo: str, chosen: Namespace) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        used, begun = _cpu_seconds(), time.perf_counter()
        speed = way(algo, chosen, Path(place))
        return Outcome(speed, time.perf_counter() - begun, _cpu_seconds() - used)


def _cpu_seconds() -> float:
    """Of processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _train(algo: str, chosen: Namespace, directory: Path, *settings: str) -> None:
    own = ("--algo", algo, "--env", chosen.env, "--total-steps", str(chosen.steps), "--device", chosen.device)
    train(algo, [*own, *settings], directory)


def _parser() -> Parser:
    parser = Parser(description="Several seeds in one process against a process for each.")
    parser.add_argument("--algos", nargs="+", default=["ppo", "espo"], metavar="ALGO")
    parser.add_argument("--env", default="HalfCheetah-v4")
    parser.add_argument("--seeds", type=count, default=4, help="how many (4)")
    parser.add_argument("--jobs", type=count, default=usable_cores(), help="processes at a time (cores)")
    parser.add_argument("--steps", type=count, default=100_000, help="of each seed (100000)")
    parser.add_argument("--rounds", type=count, default=3, help="that count (3)")
    parser.add_argument("--torch-threads", type=count, default=1, help="of the one process (1)")
    parser.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
