"""How fast: environments alone, one update, training, and the start of a run, in one table.

    python benchmarks/throughput.py [--peers]

Everything is measured in turns, round by round, each thing in a process of its own that sleeps while
others measure. So a machine that becomes slower for a while is slower for all, and ratios, taken
within a round, hardly notice.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from command_line import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Parser, count
from machine import REPOSITORY, describe_machine, git_revision
from measured import Effort
from throughput_plan import GROUPS, Item, Plan, Row, make_plan
from workers import MeasurementError, Worker

FULL = Effort(window_seconds=2.0, training_seconds=4.0, warmup_iterations=10, startup_steps=60_000)
QUICK = Effort(window_seconds=0.1, training_seconds=0.1, warmup_iterations=1, startup_steps=2048)

RESULTS = REPOSITORY / "benchmarks" / "results" / "throughput"
SCRAP = REPOSITORY / "runs" / "bench"

NOTES = (
    "Medians over the rounds; ratios are taken within each round. Steps are transitions: resets are not",
    "counted. Environments alone receive random actions. Memory is that of the largest process.",
)

Samples = dict[str, list[float]]  # of each row's key, one a round


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit code."""
    options = _parser().parse_args(arguments)
    missing = [
        name for name in ("stable_baselines3", "sb3_contrib") if importlib.util.find_spec(name) is None
    ]
    if options.peers and missing:
        print(f"error: {' and '.join(missing)} missing: pip install 'rlkit_es[peers]'", file=sys.stderr)
        return EXIT_USER_ERROR
    plan = make_plan(options.only, options.peers, options.peer_threads)
    rounds = options.rounds or (2 if options.quick else 5)
    date, revision = time.strftime("%Y-%m-%d"), git_revision()
    header = {
        "date": date,
        "git revision": revision,
        "rounds": str(rounds),
        "threads": (
            f"torch 1 (the peers {options.peer_threads}; Atari: one a core for all), environments one a core"
        ),
        **describe_machine(),
    }
    try:
        samples = measure(plan.items, rounds, QUICK if options.quick else FULL)
    except MeasurementError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    report = make_report(header, plan, samples)
    markdown = to_markdown(report)
    print(markdown)
    # A smoke test's numbers mean nothing: they do not go where results are committed.
    default = SCRAP / "throughput-quick" if options.quick else RESULTS / f"{date}-{revision}"
    save(report, markdown, options.output or default)
    return 0


def measure(items: Sequence[Item], rounds: int, effort: Effort) -> Samples:
    """Every item once a round, in the same order, each in its own process.

    Raises:
        MeasurementError: one of them failed.
    """
    samples: Samples = {row.key: [] for item in items for row in item.rows}
    with contextlib.ExitStack() as stack:
        workers = []
        for item in items:
            _say(f"preparing: {item.rows[0].label}")
            worker = Worker(item.rows[0].label, partial(item.measure, effort=effort))
            stack.callback(worker.close)
            workers.append(worker)
        for number in range(1, rounds + 1):
            for item, worker in zip(items, workers, strict=True):
                values = worker.measure()
                for row, value in zip(item.rows, values, strict=True):
                    samples[row.key].append(value)
                    _say(f"round {number}/{rounds}: {row.label}: {_number(value)} {row.unit}")
    return samples


def make_report(header: dict[str, str], plan: Plan, samples: Samples) -> dict[str, Any]:
    """All that is saved: the header, and for each row its samples and what the table says of them."""
    rows = [_summarize(row, samples[row.key]) for item in plan.items for row in item.rows]
    for ratio in plan.ratios:
        pairs = zip(samples[ratio.numerator], samples[ratio.denominator], strict=True)
        rows.append(_summarize(ratio, [numerator / denominator for numerator, denominator in pairs]))
    return {"header": header, "rows": rows}


def to_markdown(report: dict[str, Any]) -> str:
    """The header as a list and the rows as a table."""
    lines = ["# Throughput", ""]
    lines += [f"- {name}: {value}" for name, value in report["header"].items()]
    lines += ["", *NOTES, ""]
    lines += ["| what | unit | median | min - max | bar | met |", "|---|---|---|---|---|---|"]
    for row in report["rows"]:
        met = "" if row["met"] is None else "yes" if row["met"] else "**no**"
        span = f"{_number(row['min'])} - {_number(row['max'])}"
        cells = [row["label"], row["unit"], _number(row["median"]), span, row["bar"] or "", met]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def save(report: dict[str, Any], markdown: str, output: Path) -> None:
    """Write ``output``.md and ``output``.json."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", markdown), (".json", json.dumps(report, indent=2) + "\n")):
        path = output.with_name(output.name + suffix)
        path.write_text(text)
        _say(f"wrote {path}")


def _summarize(row: Row, values: list[float]) -> dict[str, Any]:
    median = float(np.median(values))
    return {
        "key": row.key,
        "label": row.label,
        "unit": row.unit,
        "median": median,
        "min": min(values),
        "max": max(values),
        "bar": None if row.bar is None else str(row.bar),
        "met": None if row.bar is None else row.bar.met(median),
        "values": values,
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, help="how often each thing is measured (default 5)")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups of rows (default all)"
    )
    parser.add_argument("--peers", action="store_true", help="measure Stable-Baselines3 and sb3-contrib too")
    parser.add_argument("--peer-threads", type=count, default=1, help="torch threads of a peer (default 1)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: the numbers mean nothing")
    parser.add_argument("--output", type=Path, help="where to write, without .md and .json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
