"""How soon: seconds and steps until a return is reached, ours beside Stable-Baselines3, Tianshou, CleanRL.

    python benchmarks/peers.py
    python benchmarks/peers.py --envs Hopper-v4 --contenders ppo sb3-ppo-zoo --seeds 1

Who takes part is in contenders/. Each run has a process of its own with one torch thread, and runs of all
contenders take turns, so that a machine that becomes slower for a while is slower for all. A finished
run is stored at once and not run again: an interrupted measurement is continued by the same command.
Timings are comparable only among equal --jobs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from command_line import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Parser, count
from contenders import CONTENDERS, missing_packages
from contenders.processes import Crash, Run, run_races
from contenders.race import Race, Result
from contenders.records import Conditions, Record, append, check_conditions, read
from contenders.summary import summarize
from machine import REPOSITORY, describe_machine, git_revision

from rlkit_es import UserError

THRESHOLDS = {"HalfCheetah-v4": 3000.0, "Walker2d-v4": 2500.0, "Hopper-v4": 2000.0}
RESULTS = REPOSITORY / "benchmarks" / "results" / "peers"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the finished runs", file=sys.stderr)
        return EXIT_INTERRUPTED


def plan_runs(options: argparse.Namespace, finished: Collection[tuple[str, str, int]]) -> list[Run]:
    """All that is not finished: a seed of everything before the next seed, contenders side by side."""
    each = itertools.product(
        range(options.seeds), dict.fromkeys(options.envs), dict.fromkeys(options.contenders)
    )
    return [
        Run(
            key,
            CONTENDERS[key],
            Race(env, seed, THRESHOLDS[env], options.total_steps, options.limit_seconds),
        )
        for seed, env, key in each
        if (key, env, seed) not in finished
    ]


def _run(options: argparse.Namespace) -> int:
    stored = options.output / "runs.jsonl"
    records = read(stored)
    crashed = 0
    if not options.report_only:
        missing = missing_packages(CONTENDERS[key] for key in options.contenders)
        if missing:
            raise UserError(f"{' and '.join(missing)} missing: pip install 'rlkit_es[peers]'")
        asked = Conditions(
            total_steps=options.total_steps, limit_seconds=options.limit_seconds, jobs=options.jobs
        )
        check_conditions(records, asked)
        runs = plan_runs(options, {record.key for record in records})
        crashed = _measure(runs, asked, stored)
        records = read(stored)
    elif not records:
        raise UserError("no finished run in --output: leave --report-only out to run some")
    if records:
        check_conditions(records, records[0])
        summary = summarize(records)
        (options.output / "summary.md").write_text(summary)
        print(f"{summary}\nwrote {_short(options.output / 'summary.md')}")
    return EXIT_FAILED if crashed else 0


def _measure(runs: Sequence[Run], conditions: Conditions, stored: Path) -> int:
    """Store and report each run as it ends; returns how many crashed."""
    machine, revision = describe_machine(), git_revision()
    crashed = 0
    for number, (run, outcome) in enumerate(run_races(runs, conditions.jobs), 1):
        name = f"{run.key} {run.race.env} seed {run.race.seed}"
        if isinstance(outcome, Crash):
            crashed += 1
            print(f"error: {name} crashed: {outcome.reason}", file=sys.stderr, flush=True)
            continue
        record = Record(
            contender=run.key,
            env=run.race.env,
            seed=run.race.seed,
            threshold=run.race.threshold,
            date=time.strftime("%Y-%m-%d"),
            revision=revision,
            machine=machine,
            **dataclasses.asdict(conditions),
            **dataclasses.asdict(outcome),
        )
        append(stored, record)
        print(f"{number}/{len(runs)} {name}: {_describe(run.race, outcome)}", flush=True)
    return crashed


def _describe(race: Race, result: Result) -> str:
    spent = f"{result.seconds:,.1f} s, {result.env_steps:,} steps"
    if result.reached:
        return f"{race.threshold:,.0f} reached after {spent}"
    best = "none" if result.best_return is None else f"{result.best_return:,.0f}"
    return f"{race.threshold:,.0f} not reached in {spent}; best return {best}"


def _short(path: Path) -> str:
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=THRESHOLDS, default=list(THRESHOLDS), help="default all")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="default all"
    )
    parser.add_argument("--seeds", type=count, default=3, help="how many, from 0 (default 3)")
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time (default 1)")
    parser.add_argument("--total-steps", type=count, default=1_000_000, help="a run's last (default 1000000)")
    parser.add_argument(
        "--limit-seconds", type=count, default=600, help="after which a run ends (default 600)"
    )
    parser.add_argument("--report-only", action="store_true", help="rebuild the summary from finished runs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of runs.jsonl and summary.md")
    return parser


if __name__ == "__main__":
    # Ended from outside, it ends the runs that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
