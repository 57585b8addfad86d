"""What a GPU makes of an update and of training: eager, compiled and recorded, by size of the minibatch.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --sizes 64 256      # the same code where there is no GPU

An update is one epoch over a batch that was collected once; training is PPO on the environments named,
beside the CPU. Ways take turns within a round, and the first round, which compiles and records, is not
counted.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from command_line import EXIT_USER_ERROR, Parser, count
from grids.tables import compared_rates, table
from machine import describe_machine, git_revision, one_line

from rlkit_es import UserError
from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.loops import CompiledLoop, Loop, PythonLoop, RecordedLoop, Step
from rlkit_es.learners.recipes import fill_slots, find_recipe
from rlkit_es.learners.recording import recorder
from rlkit_es.training.batches import prepare_batch
from rlkit_es.training.config import Config
from rlkit_es.training.device import resolve_device
from rlkit_es.training.policy import make_policy
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Batch

_MOST_STEPS = 256  # of an epoch: small minibatches take a part of the batch

Rates = dict[str, list[float]]  # by way, one a round


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save as the command line says; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        device = resolve_device(chosen.device)
        torch.set_num_threads(1)
        ways = ways_on(device)
        machine = describe_devices(device)
        content: dict[str, object] = {"machine": machine, "git revision": git_revision()}
        print(one_line(machine))
        for algo in chosen.algos:
            rates = dict(measure_updates(algo, device, ways, chosen))
            content[f"minibatch steps/s, {algo}"] = rates
            print(
                f"\nminibatch steps/s of {algo}, {chosen.update_env}\n", *_table("minibatch", rates), sep="\n"
            )
        if chosen.envs:
            rates = {env: measure_training(env, device, chosen) for env in chosen.envs}
            content["environment steps/s"] = rates
            print("\nenvironment steps/s of ppo, end to end\n", *_table("environment", rates), sep="\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    if chosen.output is not None:
        chosen.output.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def ways_on(device: torch.device) -> Mapping[str, Callable[[Step], Loop]]:
    """Kinds of loops over minibatches that there are on ``device``, by name."""
    record = recorder(device)
    if record is None:
        return {"eager": lambda step: PythonLoop(step, watch=False), "compiled": CompiledLoop}
    return {
        "eager": lambda step: PythonLoop(step, watch=False),
        "compiled": lambda step: PythonLoop(torch.compile(step, dynamic=False), watch=False),
        "recorded": lambda step: RecordedLoop(step, record),
        "compiled, recorded": lambda step: RecordedLoop(torch.compile(step, dynamic=False), record),
    }


def measure_updates(
    algo: str, device: torch.device, ways: Mapping[str, Callable[[Step], Loop]], chosen: Namespace
) -> Iterator[tuple[str, Rates]]:
    """Minibatch steps a second of each way, for each size."""
    batch, trainer = collected(chosen.update_env, device, max(min(chosen.sizes) * _MOST_STEPS, *chosen.sizes))
    for size in chosen.sizes:
        rows = min(size * _MOST_STEPS, len(batch.valid))
        part = Batch(*(field[:rows].contiguous() for field in batch))
        rates: Rates = {way: [] for way in ways}
        learners = {way: _learner(algo, trainer, size, make) for way, make in ways.items()}
        for _ in range(chosen.rounds + 1):
            for way, learner in learners.items():
                rates[way].append(_steps_per_second(learner, part, device))
        yield f"{size:,}", {way: of_way[1:] for way, of_way in rates.items()}


def collected(env: str, device: torch.device, rows: int) -> tuple[Batch, Trainer]:
    """At least that many samples of an untrained policy, on ``device``."""
    num_envs = 64
    steps = -(-rows // num_envs)
    shape = {"num_envs": num_envs, "rollout_steps": steps, "minibatch_size": num_envs}
    config = Config.for_algorithm("ppo", env=env, device=str(device), **shape)
    trainer = Trainer(config)
    rollout = trainer.begin_segment().collect(trainer.policy)
    batch, *_ = prepare_batch(
        rollout, trainer.policy, trainer.reward_scaler, gamma=config.gamma, gae_lambda=config.gae_lambda
    )
    trainer.close()
    return batch, trainer


def measure_training(env: str, device: torch.device, chosen: Namespace) -> Rates:
    """Environment steps a second of whole iterations, on the CPU and on ``device`` eager and fast."""
    ways = {"cpu": ("cpu", "on"), f"{device.type}, eager": (str(device), "off")}
    if recorder(device) is not None:
        ways[f"{device.type}, recorded"] = (str(device), "on")
    rates: Rates = {way: [] for way in ways}
    shape = {} if chosen.num_envs is None else {"num_envs": chosen.num_envs}
    trainers = {}
    for way, (name, mode) in ways.items():
        trainers[way] = Trainer(Config.for_algorithm("ppo", env=env, device=name, compile=mode, **shape))
    for _ in range(chosen.rounds + 1):
        for way, trainer in trainers.items():
            trainer.train(chosen.iterations * trainer.config.batch_size)
            rates[way].append(trainer.metrics["steps_per_second"])
    for trainer in trainers.values():
        trainer.close()
    return {way: of_way[1:] for way, of_way in rates.items()}


def describe_devices(device: torch.device) -> dict[str, str]:
    """The machine, with its GPU."""
    gpu = {"GPU": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**gpu, **describe_machine()}


def _learner(algo: str, trainer: Trainer, size: int, make: Callable[[Step], Loop]) -> AdamLearner:
    policy = make_policy(trainer.config, trainer.spaces, seed=0).to(trainer.device)
    once = {"num_envs": size, "minibatch_size": size, "epochs": 1, "critic_epochs": 1}
    config = Config.for_algorithm(algo, env=trainer.config.env, recompute_advantages=False, **once)
    slots = fill_slots(find_recipe(algo), config)
    learner = AdamLearner(policy, slots, config, torch.Generator().manual_seed(0), watch_stop=False)
    learner.loop_by(make)
    return learner


def _steps_per_second(learner: AdamLearner, batch: Batch, device: torch.device) -> float:
    _wait_for(device)
    begun = time.perf_counter()
    learner.update(batch, learner.config.learning_rate)
    _wait_for(device)
    return -(-len(batch.valid) // learner.config.minibatch_size) / (time.perf_counter() - begun)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _table(head: str, rates: Mapping[str, Rates]) -> list[str]:
    """Medians, and how they compare with the first way within each round."""
    ways = list(next(iter(rates.values())))
    return table([head, *ways], [[name, *compared_rates(of_ways)] for name, of_ways in rates.items()])


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cuda", help="to measure")
    parser.add_argument("--algos", nargs="+", default=["ppo", "espo"], help="whose updates are measured")
    parser.add_argument(
        "--sizes", nargs="+", type=count, default=[64, 256, 1024, 4096, 16384, 65536], help="of minibatches"
    )
    parser.add_argument("--update-env", default="HalfCheetah-v4", help="whose samples are updated on")
    parser.add_argument("--envs", nargs="*", default=["HalfCheetah-v4", "ALE/Pong-v5"], help="to train on")
    parser.add_argument("--num-envs", type=count, help="at once in training (that of the environment)")
    parser.add_argument("--iterations", type=count, default=4, help="of training in a round")
    parser.add_argument("--rounds", type=count, default=5, help="that count")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
