"""What of one run each rank carries out."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from rlkit_es.envs.registry import usable_cores
from rlkit_es.errors import UserError
from rlkit_es.ranks import Ranks
from rlkit_es.training.config import Config
from rlkit_es.training.environments import backend_of

# The first rank alone writes, so that the others need not name the same place.
_MAY_DIFFER = frozenset({"run_dir"})


def share_of(config: Config, ranks: Ranks) -> Config:
    """``config`` with the environments, the samples of a minibatch and the threads of one rank.

    Raises:
        UserError: they cannot be shared out evenly.
    """
    if ranks.size == 1:
        return config
    for name in ("num_envs", "minibatch_size"):
        if getattr(config, name) % ranks.size:
            raise UserError(
                f"{name} {getattr(config, name)} does not divide over {ranks.size} ranks: "
                f"make it a multiple of {ranks.size}"
            )
    backend, _ = backend_of(config)
    return dataclasses.replace(
        config,
        num_envs=config.num_envs // ranks.size,
        minibatch_size=config.minibatch_size // ranks.size,
        env_threads=config.env_threads or cores(ranks),
        backend=backend,  # that of one process, whose environments would be more
    )


def cores(ranks: Ranks) -> int:
    """Processors for each of the ranks on this machine."""
    return max(1, usable_cores() // ranks.local_size)


def require_agreement(config: Config, ranks: Ranks) -> None:
    """Every rank was started for the same run, on the same kind of machine.

    Raises:
        UserError: on every rank, if one was not.
    """
    if ranks.size == 1:
        return
    first, *others = ranks.everyones(_circumstances(config))
    for rank, circumstances in enumerate(others, start=1):
        for name, value in first.items():
            if circumstances.get(name) != value:
                raise UserError(
                    f"rank {rank} has {name} {circumstances.get(name)!r} and rank 0 {value!r}: start every "
                    "rank with the same command, on machines of one kind"
                )


def _circumstances(config: Config) -> dict[str, Any]:
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _MAY_DIFFER}
    # Where these differ results differ by a rounding, and the decisions that ranks take each for itself.
    return {**settings, "torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}
