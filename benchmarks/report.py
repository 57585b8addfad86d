"""docs/results.md, its figures and its tables, from the committed curves.

python benchmarks/report.py
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from command_line import Parser
from grids import sections
from grids.figures import plot_all_curves, plot_profiles
from grids.records import group, read_committed
from grids.scores import describe_scale, read_published, under_protocol
from grids.sections import Measurement
from grids.suites import SUITES
from machine import REPOSITORY
from seed_statistics import bootstrap_interval, interquartile_mean, sample_std

LEARNING = REPOSITORY / "benchmarks" / "results" / "learning"
DOCS = REPOSITORY / "docs"
FIGURES = "results"  # folder in the docs

_INTRODUCTION = """\
# Results

This page, its figures and its [tables](results/) are written by `python benchmarks/report.py` from the
curves in [benchmarks/results/learning](../benchmarks/results/learning/), and those by

    python benchmarks/learning.py --suite {suites}

on a 2-core x86-64 virtual machine, one run on each core, one thread each. Every run's command line,
settings, versions and git revision are in `runs.json` there. One configuration per recipe, the library's
defaults, but where a variant's name says otherwise; on MuJoCo nothing is chosen by environment. Single
changes are of the defaults of their time.

Returns are means of ten episodes of the deterministic policy after training, of raw rewards: mean ±
standard deviation over seeds (number of seeds). Scores put environments on one scale: for MuJoCo 0 is
random play and 1 the best mean that any library has published of an on-policy algorithm at that budget,
with one configuration for all environments; for DM Control 1 is a return of 1000; for Atari 0 is random
play and 1 a person. IQM, probability of improvement and performance profiles are those of Agarwal et al.
([arXiv:2108.13264](https://arxiv.org/abs/2108.13264)). Percentile-bootstrap intervals of three to five
seeds are too narrow; what has fewer than three seeds is not compared.
"""
_FIELDS = (
    *("env", "variant", "seeds", "mean", "std", "iqm", "interval_low", "interval_high"),
    *("max_over_training", "last_training_episodes"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of results.md (default: docs)")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    published = read_published()
    measured = [
        Measurement(name, suite, read_committed(LEARNING / name), published) for name, suite in SUITES.items()
    ]
    folder = options.docs / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    lines = _INTRODUCTION.format(suites="{" + ",".join(SUITES) + "}").splitlines()
    for measurement in measured:
        lines += ["", f"## {measurement.suite.title}", "", *_section(measurement, folder)]
    (options.docs / "results.md").write_text("\n".join(lines) + "\n")
    print(f"wrote {options.docs / 'results.md'}")
    return 0


def _section(measured: Measurement, folder: Path) -> list[str]:
    if not measured.runs:
        return [f"The suite has not been run. {measured.suite.remark}".rstrip()]
    remark = [measured.suite.remark, ""] if measured.suite.remark else []
    _write_table(measured, folder / f"{measured.name}.csv")
    lines = [f"{measured.suite.total_steps:,} environment steps.", "", *remark]
    updates = _part(measured.suite.updates_title, sections.updates(measured))
    details = _part("In detail", sections.details(measured))
    if not measured.suite.pairs:
        return [*lines, *sections.changes(measured), *sections.never_run(measured), *updates, *details]
    lines += [*sections.overview(measured), *_figures(measured, folder)]
    lines += _part("Over the suite", [*sections.aggregates(measured), *_improvements(measured)])
    lines += updates
    lines += _part("Beside published scores", sections.beside_published(measured))
    lines += details
    return lines + _part("Not run", sections.not_run(measured))


def _figures(measured: Measurement, folder: Path) -> list[str]:
    plot_all_curves(measured.by_env, folder / f"{measured.name}-curves.png")
    lines = ["", f"![Training returns]({FIGURES}/{measured.name}-curves.png)"]
    if profiles := sections.profiles(measured):
        scale = describe_scale(measured.suite.envs[0])
        plot_profiles(profiles, scale, folder / f"{measured.name}-profiles.png")
        lines += ["", f"![Performance profiles]({FIGURES}/{measured.name}-profiles.png)"]
    return lines


def _improvements(measured: Measurement) -> list[str]:
    best_first = [(name, "ppo") for name in measured.variants if name != "ppo"]
    pairs = dict.fromkeys([*best_first, *measured.suite.pairs])
    lines = sections.improvements(measured, list(pairs))
    return ["", *lines] if lines else []


def _part(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", *lines] if lines else []


def _write_table(measured: Measurement, path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_FIELDS)
        for (env, variant), runs in group(measured.runs).items():
            returns = [run.final_return for run in runs]
            interval = bootstrap_interval(returns)
            values = [float(np.mean(returns)), sample_std(returns), interquartile_mean(returns), *interval]
            values += [under_protocol(rule, runs).mean for rule in ("max over training", "last episodes")]
            writer.writerow([env, variant, len(runs), *(f"{value:.2f}" for value in values)])


if __name__ == "__main__":
    sys.exit(main())
