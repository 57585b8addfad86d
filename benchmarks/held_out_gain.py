"""What an update gains on its own batch, and on fresh samples of the same policy, for the distance it moves.

    python benchmarks/held_out_gain.py
    python benchmarks/held_out_gain.py --envs Hopper-v4 --variant 'small=espo --learning-rate 3e-5'

A policy is trained by PPO for a while. Then each variant updates a copy of it, its optimiser's moments
with it, on each of a few batches; what the surrogate E[r A] gains is measured on that batch and on many
samples that no update has seen. The second is what training is for.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from command_line import EXIT_USER_ERROR, Parser, count
from grids.suites import Variant, parse_variant, plain
from grids.tables import table
from machine import REPOSITORY, save

from rlkit_es import UserError
from rlkit_es.core.losses import normalize
from rlkit_es.learners.learner import make_learner
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.run import parse
from rlkit_es.training.batches import Prepared, prepare_batch
from rlkit_es.training.config import Config
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Batch

RESULTS = REPOSITORY / "benchmarks" / "results" / "held_out_gain.json"

_SPREAD = 30  # rollouts before the first batch: environments that began together are apart by then
_VARIANTS = (
    *plain("ppo", "trpo", "espo", "sd_ppo", "sd_trpo", "sd_espo", "spo", "r2vpo"),
    Variant("espo, rate 1e-4", "espo", ("--learning-rate", "1e-4")),
    Variant("espo, rate 3e-5", "espo", ("--learning-rate", "3e-5")),
    Variant("ppo, minibatch 64", "ppo", ("--minibatch-size", "64")),
    Variant("espo, minibatch 64", "espo", ("--minibatch-size", "64")),
    Variant("espo, minibatch 1024", "espo", ("--minibatch-size", "1024")),
    Variant("trpo, max_kl 0.02", "trpo", ("--max-kl", "0.02")),
    Variant("espo, threshold 0.1", "espo", ("--deviation-threshold", "0.1")),
)


class Shift(NamedTuple):
    """What one update did."""

    own_gain: float  # of E[r A], A normalised, on the batch it was made on
    gain: float  # the same on fresh samples
    kl: float  # nats, on fresh samples
    policy_steps: float


class Trained(NamedTuple):
    """A policy in the middle of training, with samples of it."""

    trainer: Trainer
    batches: list[Prepared]
    fresh: Batch


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v4", "Walker2d-v4"])
    parser.add_argument("--variant", action="append", default=[], help="'name=algo --argument value ...'")
    parser.add_argument("--trained-steps", type=count, default=150_000, help="of PPO before")
    parser.add_argument("--batches", type=count, default=16, help="that each variant updates on")
    parser.add_argument("--fresh", type=count, default=128, help="rollouts that no update sees")
    options = parser.parse_measurement(arguments, RESULTS)
    try:
        results = _measure_all(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    given = {name: value for name, value in vars(options).items() if name != "output"}
    save(options.output, {"arguments": given, "results": results})
    return 0


def _measure_all(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """By environment and variant."""
    variants = tuple(map(parse_variant, options.variant)) or _VARIANTS
    configs = {
        (env, variant.name): parse(["--algo", variant.algo, "--env", env, *variant.settings])
        for env in options.envs
        for variant in variants
    }
    results = {}
    for env in options.envs:
        trained = prepare(env, options.trained_steps, options.batches, options.fresh)
        of_env = {
            variant.name: summarize(
                [update(trained, configs[env, variant.name], at) for at in range(options.batches)]
            )
            for variant in variants
        }
        trained.trainer.close()
        print(f"\n{env}\n", *_table(of_env), sep="\n", flush=True)
        results[env] = of_env
    return results


def prepare(env: str, steps: int, batches: int, fresh: int) -> Trained:
    """Train by PPO with one horizon for ``steps``, then collect with the policy as it is."""
    constant = {"learning_rate_schedule": "constant", "horizon_growth": 1.0}
    config = Config.for_algorithm("ppo", env=env, total_steps=steps, env_threads=1, **constant)
    trainer = Trainer(config)
    trainer.train(steps)
    collector = trainer.begin_segment()
    for _ in range(_SPREAD):
        _collect(trainer, collector)
    own = [_collect(trainer, collector) for _ in range(batches)]
    unseen = [_valid(_collect(trainer, collector).batch) for _ in range(fresh)]
    return Trained(trainer, own, _join(unseen))


def update(trained: Trained, config: Config, at: int) -> Shift:
    """One update of a copy of the policy, on the batch of that number."""
    policy, prepared = _copy(trained.trainer.policy), trained.batches[at]
    learner = make_learner(config.algo, policy, config, torch.Generator().manual_seed(at))
    moments = trained.trainer.learner.state_tensors()
    for name, tensor in learner.state_tensors().items():
        if name in moments and tensor.shape == moments[name].shape:
            tensor.copy_(moments[name])
    metrics = learner.update(prepared.batch, config.learning_rate, estimator=prepared.estimator)
    own_gain, _ = _gain(policy, _valid(prepared.batch))
    gain, kl = _gain(policy, trained.fresh)
    return Shift(own_gain, gain, kl, metrics["policy_steps"])


def summarize(shifts: Sequence[Shift]) -> dict[str, float]:
    """Means over the batches, and the standard error of what counts."""
    mean = Shift(*np.mean(shifts, axis=0).tolist())
    error = float(np.std([shift.gain for shift in shifts], ddof=1)) / math.sqrt(len(shifts))
    return {
        **mean._asdict(),
        "gain_error": error,
        "gain_per_distance": mean.gain / math.sqrt(2 * mean.kl) if mean.kl > 0 else math.nan,
    }


def _table(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    heads = ["", "gain on its batch", "gain on fresh samples", "KL", "gain / sqrt(2 KL)", "policy steps"]
    rows = [
        [
            name,
            f"{of['own_gain']:.3f}",
            f"{of['gain']:.5f} ± {of['gain_error']:.5f}",
            f"{of['kl']:.4f}",
            f"{of['gain_per_distance']:.4f}",
            f"{of['policy_steps']:.0f}",
        ]
        for name, of in results.items()
    ]
    return table(heads, rows)


def _collect(trainer: Trainer, collector: RolloutCollector) -> Prepared:
    rollout = collector.collect(trainer.policy)
    config = trainer.config
    return prepare_batch(
        rollout, trainer.policy, trainer.reward_scaler, gamma=config.gamma, gae_lambda=config.gae_lambda
    )


def _valid(batch: Batch) -> Batch:
    return Batch(*(field[batch.valid] for field in batch))


def _join(batches: Sequence[Batch]) -> Batch:
    return Batch(*(torch.cat(fields) for fields in zip(*batches, strict=True)))


def _copy(policy: ActorCritic) -> ActorCritic:
    """With parameters of its own: those of a policy in training are views of its learner's vector."""
    copied = copy.deepcopy(policy)
    for parameter in copied.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    return copied


@torch.no_grad()
def _gain(policy: ActorCritic, batch: Batch) -> tuple[float, float]:
    """E[r A] - E[A] with A normalised, and the mean KL in nats."""
    new = policy.actor(batch.observation)
    stats = policy_stats(policy.distribution, new, batch.behaviour, batch.action)
    advantage = normalize(batch.advantage, batch.valid)
    return float(((stats.ratio - 1) * advantage).mean()), float(stats.kl.mean())


if __name__ == "__main__":
    sys.exit(main())
