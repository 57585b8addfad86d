"""The table of a measurement, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from contenders import CONTENDERS
from contenders.race import FEWEST, WINDOW
from contenders.records import Record

_COLUMNS = (
    "contender",
    "reached",
    "median seconds (range)",
    "median steps",
    "median CPU seconds",
    "seconds / best of ours",
    "median best return",
)

_SETTINGS = (
    "Ours come with the library's defaults. zoo: the hyperparameters of rl-baselines3-zoo. example: those "
    "of Tianshou's example for MuJoCo. equal: those of our defaults, but with 64 environments x 32 steps, "
    "one horizon, a lambda of 0.95, one learning rate and advantages computed once, which all can be set "
    "to, and as far as the options allow; Tianshou scales returns in place of rewards, and the trust "
    "region of TRPO, a sum of KL over action dimensions, stays at half of what our default begins with. "
    "cleanrl-style: written for this comparison, with "
    "the hyperparameters of CleanRL's ppo_continuous_action.py. Learning rates that fall reach 0 at the "
    "end of the total steps."
)


def summarize(records: Sequence[Record]) -> str:
    """Rule, settings, machine and a table for each environment; of contenders that still exist."""
    records = [record for record in records if record.contender in CONTENDERS]
    lines = ["# Time to a return, side by side", "", _rule(records[0]), "", _SETTINGS, ""]
    lines += [f"- {name}: {values}" for name, values in _header(records).items()]
    for env in dict.fromkeys(record.env for record in records):
        lines += ["", *_table([record for record in records if record.env == env])]
    return "\n".join(lines) + "\n"


def _rule(record: Record) -> str:
    return (
        f"Seconds and environment steps until the mean raw return of the last {WINDOW} training episodes, or "
        f"of all while there are fewer, but at least {FEWEST}, reaches the threshold. It is looked at where "
        "an iteration ends, a rollout and its update. The clock starts before environments and model are "
        "made: compiling is counted (ours by PyTorch, whose disk cache spares much of it from the second "
        "run on, and Tianshou's by Numba), imports are not. A run ends with the iteration in which it "
        "reaches the threshold or a limit; one that has "
        f"not reached the threshold is not within {_limit(record)}, and counts as infinite in medians, "
        "written > limit. Each run has a process of its own with one torch thread, "
        f"{record.jobs} at a time. The others simulate their environments one after the other, ours in "
        "threads beside the torch thread, which CPU seconds include. Medians are over seeds."
    )


def _limit(record: Record) -> str:
    return f"{record.total_steps:,} steps and {record.limit_seconds:,.0f} s"


def _header(records: Sequence[Record]) -> dict[str, str]:
    """Each name with all the values that the runs have of it."""
    found: dict[str, list[str]] = {}
    for record in records:
        own = {"date": record.date, "git revision": record.revision, **record.machine}
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return {name: ", ".join(dict.fromkeys(values)) for name, values in found.items()}


def _table(records: Sequence[Record]) -> list[str]:
    by_contender = {
        key: [record for record in records if record.contender == key]
        for key in CONTENDERS
        if any(record.contender == key for record in records)
    }
    ours = [_median_seconds(runs) for key, runs in by_contender.items() if CONTENDERS[key].ours]
    best = min(ours, default=math.inf)
    return [
        f"## {records[0].env}, a return of {records[0].threshold:,.0f}",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
        *(_row(CONTENDERS[key].label, runs, best) for key, runs in by_contender.items()),
    ]


def _row(label: str, runs: Sequence[Record], best: float) -> str:
    seconds = [_counted(run, run.seconds) for run in runs]
    median = _median_seconds(runs)
    returns = [run.best_return for run in runs if run.best_return is not None]
    cells = (
        label,
        _reached(runs),
        f"{_number(median)}{_span(seconds)}",
        _number(_median(runs, lambda run: run.env_steps)),
        _number(_median(runs, lambda run: run.cpu_seconds)),
        f"{median / best:.2f}" if math.isfinite(median) and math.isfinite(best) else "-",
        _number(float(np.median(returns))) if returns else "-",
    )
    return f"| {' | '.join(cells)} |"


def _reached(runs: Sequence[Record]) -> str:
    missed = sum(not run.reached for run in runs)
    text = f"{len(runs) - missed} of {len(runs)}"
    return f"{text}; {missed} not within {_limit(runs[0])}" if missed else text


def _span(seconds: Sequence[float]) -> str:
    ends = dict.fromkeys((_number(min(seconds)), _number(max(seconds))))
    return f" ({' - '.join(ends)})" if len(ends) > 1 else ""


def _median_seconds(runs: Sequence[Record]) -> float:
    return _median(runs, lambda run: run.seconds)


def _median(runs: Sequence[Record], value: Callable[[Record], float]) -> float:
    return float(np.median([_counted(run, value(run)) for run in runs]))


def _counted(run: Record, value: float) -> float:
    return value if run.reached else math.inf


def _number(value: float) -> str:
    if math.isinf(value):
        return "> limit"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
