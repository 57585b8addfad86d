"""What sample dropout takes from a natural step, beside dropping as many samples at random.

    python benchmarks/dropped_signal.py

TRPO trains; at each of its updates, the step that SD-TRPO would have made on the same batch is
computed too, but not taken. Everything is a median over the updates, then a range over the seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from command_line import Parser, count
from machine import REPOSITORY, save
from torch import Tensor

from rlkit_es.core.masks import kl_below, ratio_within
from rlkit_es.learners.minibatch_loss import Minibatch
from rlkit_es.learners.natural_learner import NaturalLearner
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Batch, PolicyStats

RESULTS = REPOSITORY / "benchmarks" / "results" / "dropped_signal.json"

_SETTINGS = {
    "num_envs": 64,
    "rollout_steps": 32,
    "horizon_growth": 1.0,
    "gae_lambda": 0.95,
    "log_std_init": -0.5,
    "max_kl": 0.02,
    "max_kl_schedule": "constant",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--envs", nargs="+", default=["Hopper-v4", "Walker2d-v4", "HalfCheetah-v4"])
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--updates", type=count, default=100)
    options = parser.parse_measurement(arguments, RESULTS)
    results: dict[str, Any] = {}
    for env in options.envs:
        seeds = [measure(env, seed, options.updates) for seed in range(options.seeds)]
        results[env] = {
            mask: {
                name: [round(pick(seed[mask][name] for seed in seeds), 3) for pick in (min, max)]
                for name in seeds[0][mask]
            }
            for mask in seeds[0]
        }
        print(env, *(f"  {mask}: {values}" for mask, values in results[env].items()), sep="\n")
    content = {
        "seeds": options.seeds,
        "updates": options.updates,
        "lowest and highest seed of the median over updates": results,
    }
    save(options.output, content)
    return 0


def measure(env: str, seed: int, updates: int) -> dict[str, dict[str, float]]:
    """For each mask the median over the updates of one TRPO run."""
    config = Config.for_algorithm("trpo", env=env, seed=seed, **_SETTINGS)
    trainer = Trainer(config)
    trainer.learner.compile()
    learner = trainer.learner
    assert isinstance(learner, NaturalLearner)
    generator = torch.Generator().manual_seed(seed)
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    step_policy = learner._step_policy

    def observed(batch: Batch, sizes: list[int], max_kl: float) -> Any:
        for mask, values in compare(learner, batch, max_kl, generator).items():
            for name, value in values.items():
                samples[mask][name].append(value)
        return step_policy(batch, sizes, max_kl)

    learner._step_policy = observed  # type: ignore[method-assign]
    trainer.train(updates * config.batch_size)
    trainer.close()
    return {
        mask: {name: statistics.median(series) for name, series in values.items()}
        for mask, values in samples.items()
    }


def compare(
    learner: NaturalLearner, batch: Batch, max_kl: float, generator: torch.Generator
) -> dict[str, dict[str, float]]:
    """Of each mask at TRPO's full step on ``batch``: what is kept of samples, direction and gain."""
    everything = batch.valid
    start = learner._begin(batch, [len(everything)], max_kl)
    advantage = learner._advantage(Minibatch(batch, batch.advantage, everything), everything)
    gradient = learner._gradient(start, advantage, everything)
    full = learner._full_step(start, gradient)
    trial = learner._loss.own_stats(learner.parameters + full, batch)
    results = {}
    for name, keep in _masks(trial, advantage, max_kl).items():
        shuffled = keep[torch.randperm(len(keep), generator=generator)]
        for label, kept in ((name, keep), (f"{name}, as many at random", shuffled)):
            step = learner._full_step(start, learner._gradient(start, advantage, kept))
            metric_step = start.fisher_product(step)
            lengths = (full.dot(start.fisher_product(full)) * step.dot(metric_step)).sqrt()
            results[label] = {
                "kept fraction of samples": float(kept.float().mean()),
                "cosine with the full step": float(full.dot(metric_step) / lengths),
                "share of the full step's gain": float(gradient.dot(step) / gradient.dot(full)),
            }
    return results


def _masks(trial: PolicyStats, advantage: Tensor, max_kl: float) -> dict[str, Tensor]:
    by_kl = {f"kl_below, rate {rate}": kl_below(trial, advantage, rate, max_kl) for rate in (1.0, 2.0, 4.0)}
    return {**by_kl, "ratio_within 0.5": ratio_within(trial, advantage, 0.5)}


if __name__ == "__main__":
    sys.exit(main())
