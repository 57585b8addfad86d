"""Updates by two ranks, and the same update by one process."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from update_examples import (
    ADAM,
    BOX,
    DISCRETE,
    NATURAL,
    estimator_of,
    make_batch,
    make_config_for,
    make_policy,
    parameters_of,
)

from rlkit_es.core.minibatches import shuffled_minibatches
from rlkit_es.learners.diagnostics import policy_shift
from rlkit_es.learners.learner import make_learner
from rlkit_es.models.normalizers import RewardScaler, StatsModule
from rlkit_es.ranks import ALONE, Group, Ranks
from rlkit_es.types import Batch

SIZE = 2
ROWS = 200  # of all ranks together


class Case(NamedTuple):
    """One update."""

    algo: str
    settings: Mapping[str, Any] = MappingProxyType({})
    valid: tuple[float, float] = (0.85, 0.6)  # share of each rank's samples

    def __str__(self) -> str:
        settings = "-".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.algo} {settings} {self.valid}"


SAME_VALID = (1.0, 1.0)
MASKED: dict[str, Any] = {"dropout_threshold": 0.02}
RECOMPUTED: dict[str, Any] = {"recompute_advantages": True}
CASES = [
    *(Case(algo) for algo in (*ADAM, *NATURAL)),
    Case("ppo", {"advantage_normalization": "batch"}, SAME_VALID),
    Case("ppo", {"advantage_normalization": "none", "entropy_coefficient": 0.1}),
    Case("ppo", {"max_grad_norm": 0.01}),
    Case("ppo", RECOMPUTED),
    Case("ppo", {"common_gradient": 0.1}),
    Case("sd_espo", {"common_gradient": 0.1, **MASKED, "mask_at": "trial"}),
    Case("espo", {"common_gradient": 0.1}, (0.9, 0.0)),
    Case("sd_espo", {**MASKED, **RECOMPUTED, "advantage_normalization": "batch"}, SAME_VALID),
    Case("ppo", {}, (0.9, 0.0)),
    Case("trpo", {}, (0.9, 0.0)),
    Case("sd_ppo", {**MASKED, "mask_value": True}),
    Case("sd_ppo", {**MASKED, "mask_at": "trial"}),
    Case("sd_ppo", {**MASKED, "mask_at": "trial", "mask_value": True}),
    Case("sd_ppo", {"dropout_threshold": 1e-9}),  # drops everything but what has not moved at all
    Case("sd_trpo", {"mask_value": True, "dropout_kl": 0.01}),
    *(
        Case("espo", {"deviation_threshold": 0.01, "stop_when": when, "deviation_statistic": statistic})
        for when in ("before", "after")
        for statistic in ("mean", "median")
    ),
    Case("espo", {"deviation_threshold": 0.01, "critic_epochs": None}),
    Case("sd_espo", {**MASKED, "deviation_threshold": 0.01, "stop_when": "before"}),
    Case("ppo", {"stop": "mean_kl", "max_kl": 1e-4}),
    Case("r2vpo", {"constraint_limit": 1e-4, "dual_learning_rate": 5.0}),
    Case("ppo", {"constraint": "kl", "dual_learning_rate": 5.0}),
    Case("ppo_adaptive", {"max_kl": 1e-4}),
]


class Outcome(NamedTuple):
    """What an update left behind."""

    parameters: torch.Tensor
    metrics: dict[str, float]
    shift: dict[str, float]


def batch_of(case: Case) -> Batch:
    """(ROWS,) of all ranks."""
    batch = make_batch(make_policy(_action(case)), size=ROWS)
    share = torch.cat([torch.full((ROWS // SIZE,), share) for share in case.valid])
    return batch._replace(valid=torch.rand(ROWS, generator=torch.Generator().manual_seed(7)) < share)


def outcome(case: Case, ranks: Ranks = ALONE) -> Outcome:
    """After two updates on the same batch, of which ``ranks`` have a part each."""
    config = make_config_for(case.algo, **{"minibatch_size": 32 // ranks.size, **case.settings})
    policy = make_policy(_action(case))
    batch = Batch(*map(ranks.own, batch_of(case)))
    learner = make_learner(case.algo, policy, config, torch.Generator().manual_seed(0), ranks=ranks)

    for _ in range(2):
        metrics = learner.update(batch, config.learning_rate, 0.7, estimator_of(batch))
    return Outcome(parameters_of(policy), metrics, policy_shift(policy, batch, 0.01, ranks))


def dealt_as_by_two(
    valid: torch.Tensor, _: object, minibatch_size: int, generator: torch.Generator, __: object
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """`samples.shuffled` for one process, with the minibatches that two ranks would make."""
    halves = valid.chunk(SIZE)
    generators = [_twin(generator, rank) for rank in range(SIZE)]
    most = max(int(half.sum()) for half in halves)
    parts = [
        shuffled_minibatches(half, minibatch_size // SIZE, own, most)
        for half, own in zip(halves, generators, strict=True)
    ]
    index = torch.cat([part[0] + rank * len(valid) // SIZE for rank, part in enumerate(parts)], 1)
    return index, torch.cat([part[1] for part in parts], 1), parts[0][2]


_twins: dict[torch.Generator, list[torch.Generator]] = {}


def _twin(generator: torch.Generator, rank: int) -> torch.Generator:
    """Of each rank, from the state that ``generator`` was first seen in."""
    if generator not in _twins:
        _twins[generator] = [torch.Generator().set_state(generator.get_state()) for _ in range(SIZE)]
    return _twins[generator][rank]


def _action(case: Case) -> Any:
    return DISCRETE if case.algo in ("sd_ppo", "espo", "spo") else BOX


def normalized(ranks: Ranks = ALONE) -> dict[str, torch.Tensor]:
    """Statistics and scaled rewards after three rollouts, whose environments ``ranks`` share."""
    g = torch.Generator().manual_seed(3)
    stats, scaler = StatsModule((5,)), RewardScaler(8 // ranks.size, 0.9, 10.0)
    for _ in range(3):
        x, reward = torch.randn(40, 5, generator=g), torch.randn(6, 8, generator=g)
        valid, done = torch.rand(40, generator=g) < 0.7, torch.rand(6, 8, generator=g) < 0.2
        stats.merge(ranks.own(x), ranks.own(valid), ranks)
        mine = [ranks.own(each.T).T for each in (reward, done, torch.ones_like(done))]
        scaled = scaler(*mine, ranks)
    return {**stats.state_dict(), "scaled": ranks.gather(scaled.T).T, "variance of returns": scaler.variance}


def _work(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{directory}/store", SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=SIZE, timeout=timedelta(seconds=60))
    ranks = Group(rank, SIZE)
    results: dict[str, Any] = {str(case): tuple(outcome(case, ranks)) for case in CASES}
    results["fisher_fraction"] = tuple(outcome(Case("trpo", {"fisher_fraction": 0.3}), ranks))
    results["normalized"] = normalized(ranks)
    results["ragged"] = ranks.gather(torch.arange(2.0 + 3 * rank), ranks.sizes(2 + 3 * rank))
    results["everyones"] = ranks.everyones({"rank": rank})
    results["from_first"] = ranks.from_first(rank)
    torch.save(results, f"{directory}/{rank}")
    dist.destroy_process_group()


def by_two(directory: Path) -> list[dict[str, Any]]:
    """What each of two ranks came to, by case."""
    mp.spawn(_work, (str(directory),), nprocs=SIZE)
    return [torch.load(directory / str(rank)) for rank in range(SIZE)]
