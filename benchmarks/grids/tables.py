"""Tables over the seeds of a grid, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from seed_statistics import bootstrap_interval, interquartile_mean, sample_std

from grids.records import Run, group

_DIAGNOSED = {
    "surrogate_variance": "Var(r A)",
    "surrogate_variance_within": "Var(r A), \\|r - 1\\| < delta",
    "ratio_min": "smallest r",
    "ratio_max": "largest r",
    "ratio_deviation": "E\\|r - 1\\|",
    "approx_kl": "KL",
    "kept_fraction": "kept",
    "policy_steps": "policy steps",
}
# Of which the low tail says how far the policy went.
_FALLING = ("ratio_min", "kept_fraction")


def summarize(runs: Sequence[Run]) -> str:
    """A grid by itself: what it was measured with, returns and diagnostics."""
    lines = [
        "# Learning",
        "",
        *provenance(runs),
        "",
        "Over seeds, of the mean return of the deterministic evaluation after training: mean, standard",
        "deviation, interquartile mean, and the 95% percentile-bootstrap interval of the mean (too",
        "narrow with few seeds). Training return: of the last 100 episodes, mean over seeds.",
        "",
        *returns_table(runs),
    ]
    if measured := [run for run in runs if len(run.diagnostics) == len(_DIAGNOSED)]:
        lines += ["", *DIAGNOSTICS_CAPTION, "", *diagnostics_table(measured)]
    return "\n".join(lines) + "\n"


def returns_table(runs: Sequence[Run]) -> list[str]:
    """A line for each environment and variant."""
    heads = ["env", "algo", "seeds", "mean", "std", "IQM", "95% interval", "training return"]
    rows = []
    for (env, variant), seeds in group(runs).items():
        returns = [run.final_return for run in seeds]
        interval = bootstrap_interval(returns)
        span = f"{number(interval.low)} to {number(interval.high)}" if len(seeds) > 1 else "-"
        figures = [float(np.mean(returns)), sample_std(returns), interquartile_mean(returns)]
        training = number(float(np.mean([run.final_training_return for run in seeds])))
        rows.append([env, variant, str(len(seeds)), *map(number, figures), span, training])
    return table(heads, rows)


def compared_rates(by_way: Mapping[str, Sequence[float]]) -> list[str]:
    """Cells of a row of speeds: medians over rounds, and what they are of the first within a round."""
    first = next(iter(by_way.values()))
    cells = []
    for rates in by_way.values():
        gain = statistics.median(new / old for new, old in zip(rates, first, strict=True))
        cells.append(f"{statistics.median(rates):,.0f} ({gain:.2f})")
    return cells


DIAGNOSTICS_CAPTION = (
    "How far an update moves the policy: over the updates of a run the median and, after the slash, the",
    "99th percentile (the 1st, for the smallest ratio and the kept fraction); of these the median over",
    "seeds. A is normalised over the batch.",
)


def diagnostics_table(runs: Sequence[Run]) -> list[str]:
    """A line for each environment and variant."""
    rows = []
    for (env, variant), seeds in group(runs).items():
        entries = []
        for name in _DIAGNOSED:
            tail = "1st percentile" if name in _FALLING else "99th percentile"
            middle, far = (
                np.median([run.diagnostics[name][statistic] for run in seeds])
                for statistic in ("median", tail)
            )
            entries.append(f"{middle:,.3g} / {far:,.3g}")
        rows.append([env, variant, *entries])
    return table(["env", "algo", *_DIAGNOSED.values()], rows)


def provenance(runs: Sequence[Run]) -> list[str]:
    """What was used, all of it where runs differ."""
    used: dict[str, Iterable[object]] = {
        "environment steps": [f"{run.config['total_steps']:,}" for run in runs],
        "git revision": [_shorter(run.circumstances["git_revision"]) for run in runs],
        "backend": [run.circumstances["backend"] for run in runs],
        "python": [run.circumstances["python"] for run in runs],
    }
    for package in runs[0].circumstances["versions"]:
        used[package] = [run.circumstances["versions"].get(package) for run in runs]
    return [
        f"- {name}: {', '.join(sorted(set(map(str, values))))}"
        for name, values in used.items()
        if set(values) != {None}
    ]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [_line(heads), _line(["---"] * len(heads)), *map(_line, rows)]


def number(value: float) -> str:
    """To one decimal; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:,.1f}"


def _shorter(revision: str) -> str:
    return revision[:12] + ("+" if revision.endswith("+") else "")


def _line(entries: Sequence[str]) -> str:
    return f"| {' | '.join(entries)} |"
