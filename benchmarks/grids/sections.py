"""The sections of docs/results.md, as lines of Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from seed_statistics import (
    Estimate,
    Profile,
    performance_profile,
    probability_of_improvement,
    sample_std,
    stratified_interquartile_mean,
)

from grids.records import Run, group
from grids.scores import Published, Scale, describe_protocol, env_name, find_scale, under_protocol
from grids.suites import Suite
from grids.tables import DIAGNOSTICS_CAPTION, diagnostics_table, number, provenance, returns_table, table

_PROFILE_POINTS = 81
_FEWEST_SEEDS = 3  # before variants are compared


@dataclass(frozen=True)
class Measurement:
    """A suite and what has been run of it."""

    name: str
    suite: Suite
    runs: Sequence[Run]
    published: Sequence[Published]

    @cached_property
    def by_env(self) -> dict[str, dict[str, list[Run]]]:
        """Seeds by environment and variant, in the suite's order, of what has been run."""
        groups = group(self.runs)
        return {
            env: found
            for env in self.suite.envs
            if (found := {name: groups[env, name] for name in self.variants if (env, name) in groups})
        }

    @property
    def variants(self) -> list[str]:
        """Names, in the suite's order."""
        return [variant.name for variant in self.suite.variants]

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Of the environments that have one."""
        found = {env: find_scale(env, self.published, self.suite.total_steps) for env in self.by_env}
        return {env: scale for env, scale in found.items() if scale is not None}

    def scores(self, variant: str, envs: Sequence[str]) -> list[list[float]]:
        """Of every seed on each of ``envs``."""
        return [
            [self.scales[env].score(run.final_return) for run in self.by_env[env][variant]] for env in envs
        ]

    def common_envs(self, variants: Sequence[str]) -> list[str]:
        """Environments with a scale on which enough seeds of all ``variants`` were run."""
        return [
            env
            for env, found in self.by_env.items()
            if env in self.scales and all(_enough(found.get(name)) for name in variants)
        ]

    @cached_property
    def complete_variants(self) -> list[str]:
        """Of which enough seeds were run wherever any were: what can be compared over the suite."""
        return [v for v in self.variants if all(_enough(found.get(v)) for found in self.by_env.values())]


def overview(measured: Measurement) -> list[str]:
    """Mean and standard deviation by environment and variant, the best mean of enough seeds in bold."""
    rows = []
    for env, found in measured.by_env.items():
        means = [np.mean([run.final_return for run in seeds]) for seeds in found.values() if _enough(seeds)]
        best = float(max(means, default=np.inf))
        rows.append([env, *(_mean_entry(found.get(name), best) for name in measured.variants)])
    return table(["", *(f"`{name}`" for name in measured.variants)], rows)


def changes(measured: Measurement) -> list[str]:
    """A line for each variant that was run: its mean and deviation by environment."""
    by_env = measured.by_env
    rows = [
        [f"`{name}`", *(_mean_entry(found.get(name), np.inf) for found in by_env.values())]
        for name in measured.variants
        if any(name in found for found in by_env.values())
    ]
    return table(["", *by_env], rows)


def never_run(measured: Measurement) -> list[str]:
    """The changes and the environments that have no run at all; nothing where all have some."""
    known = {name for found in measured.by_env.values() for name in found}
    missing = [f"`{name}`" for name in measured.variants if name not in known]
    missing += [env for env in measured.suite.envs if env not in measured.by_env]
    return ["", f"Not run: {', '.join(missing)}."] if missing else []


def details(measured: Measurement) -> list[str]:
    """Every statistic, and what the runs were made with."""
    return [*returns_table(measured.runs), "", *provenance(measured.runs)]


def aggregates(measured: Measurement) -> list[str]:
    """IQM of scores over the suite, for the variants that were run on all of what was run."""
    variants, envs = measured.complete_variants, measured.common_envs(measured.complete_variants)
    if not variants or not envs:
        return []
    rows = []
    for name in variants:
        scores = measured.scores(name, envs)
        mean = float(np.mean([np.mean(runs) for runs in scores]))
        iqm = stratified_interquartile_mean(scores)
        rows.append([f"`{name}`", _estimate(iqm, scores), f"{mean:.2f}", str(sum(map(len, scores)))])
    return [
        f"Over {', '.join(envs)}:",
        "",
        *table(["", "IQM of scores (95% stratified bootstrap)", "mean", "runs"], rows),
    ]


def improvements(measured: Measurement, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """P(X > Y) for the pairs of which enough seeds were run on common environments."""
    rows = []
    for better, worse in pairs:
        if envs := measured.common_envs([better, worse]):
            scores = measured.scores(better, envs), measured.scores(worse, envs)
            chance = _estimate(probability_of_improvement(*scores), [*scores[0], *scores[1]])
            rows.append([f"`{better}` over `{worse}`", chance, str(len(envs))])
    return table(["", "P(X > Y) (95% stratified bootstrap)", "environments"], rows) if rows else []


def profiles(measured: Measurement) -> dict[str, Profile]:
    """Performance profiles of the variants that were run on all of what was run."""
    variants, envs = measured.complete_variants, measured.common_envs(measured.complete_variants)
    if not variants or not envs:
        return {}
    scores = {name: measured.scores(name, envs) for name in variants}
    highest = max(max(map(max, runs)) for runs in scores.values())
    threshold = np.linspace(0.0, highest, _PROFILE_POINTS)
    return {name: performance_profile(runs, threshold) for name, runs in scores.items()}


def updates(measured: Measurement) -> list[str]:
    """What updates look like: of the suite's pairs beside each other, or of all its variants."""
    paired = {name for pair in measured.suite.pairs for name in pair}
    named = measured.variants if measured.suite.updates_of_all else paired
    shown = [
        run for run in measured.runs if run.variant in named and "1st percentile" in str(run.diagnostics)
    ]
    return [*DIAGNOSTICS_CAPTION, "", *diagnostics_table(shown)] if shown else []


def beside_published(measured: Measurement) -> list[str]:
    """Each published score within the suite's budget, and ours under the same rule."""
    rows = []
    for env, found in measured.by_env.items():
        rows += [
            [
                env,
                f"{row.library}: {row.algo}",
                f"{row.env_steps / 1e6:g}M",
                _plus_minus(row.mean, row.std),
                describe_protocol(row.protocol),
                *(
                    _plus_minus(*under_protocol(row.protocol, found[name])) if name in found else ""
                    for name in measured.variants
                ),
            ]
            for row in measured.published
            if row.env == env_name(env)
        ]
    heads = ["", "published", "steps", "score", "rule", *(f"`{name}`" for name in measured.variants)]
    return table(heads, rows) if rows else []


def not_run(measured: Measurement) -> list[str]:
    """A line for each environment with missing or too few seeds; none where nothing is missing."""
    lines = []
    for env in measured.suite.envs:
        found = measured.by_env.get(env, {})
        missing = [
            f"`{name}` ({len(found.get(name, []))} of {measured.suite.seeds} seeds)"
            for name in measured.variants
            if len(found.get(name, [])) < measured.suite.seeds
        ]
        if not found:
            lines.append(f"- {env}: nothing")
        elif missing:
            lines.append(f"- {env}: {', '.join(missing)}")
    return lines


def _enough(seeds: Sequence[Run] | None) -> bool:
    return seeds is not None and len(seeds) >= _FEWEST_SEEDS


def _mean_entry(seeds: Sequence[Run] | None, best: float) -> str:
    if seeds is None:
        return ""
    returns = [run.final_return for run in seeds]
    mean = float(np.mean(returns))
    text = f"{_plus_minus(mean, sample_std(returns))} ({len(seeds)})"
    return f"**{text}**" if mean == best else text


def _plus_minus(mean: float, std: float) -> str:
    """Without a deviation where there is a single value; a dash where there is none."""
    if math.isnan(mean):
        return "-"
    return _short(mean) if math.isnan(std) else f"{_short(mean)} ± {_short(std)}"


def _short(value: float) -> str:
    return number(value) if abs(value) < 100 else f"{value:,.0f}"


def _estimate(estimate: Estimate, strata: Sequence[Sized]) -> str:
    """With its interval, unless every stratum is one seed and there is nothing to draw from."""
    low, high = estimate.interval
    several = any(len(stratum) > 1 for stratum in strata)
    return f"{estimate.value:.2f}" + (f" ({low:.2f} to {high:.2f})" if several else "")
