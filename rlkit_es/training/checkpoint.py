"""What training goes on from, taken out of a trainer and put into one."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlkit_es.errors import CheckpointError, UserError, diverged
from rlkit_es.ranks import Ranks
from rlkit_es.training.checkpoint_claims import (
    malformed,
    read_progress,
    read_spaces,
    require_mersenne_twister,
    require_size,
)
from rlkit_es.training.config import Config
from rlkit_es.training.episodes import Episode
from rlkit_es.training.trainer import Trainer

_NOT_KEPT = ("run_dir",)  # where a run lies is not part of what it is
_ENVIRONMENT = ("env", "env_kwargs", "backend", "sticky_actions")
_OF_ANOTHER_RANK = re.compile(r"generator\.[a-z_]+\.rank([1-9][0-9]*)")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name on the CPU, and the rest as what JSON can hold.

    ``policy.*`` are parameters and normaliser; the others matter only for training on.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def take_checkpoint(trainer: Trainer) -> Checkpoint:
    """A copy of everything that ``trainer`` goes on from; every rank asks for it, and gets the same.

    Raises:
        NonFiniteError: something is NaN or infinite: there would be nothing to go on from.
    """
    live = _live_tensors(trainer)
    for name, value in live.items():
        if not value.isfinite().all():
            raise diverged(f"iteration {trainer.progress.iteration}: {name}")
    tensors = {**live, **_generators_of_all(trainer)}
    config = dataclasses.asdict(trainer.config)
    return Checkpoint(
        tensors={
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        },
        state={
            "config": {name: value for name, value in config.items() if name not in _NOT_KEPT},
            "observation": list(trainer.spaces.observation.shape),
            "action": dataclasses.asdict(trainer.spaces.action),
            "progress": dataclasses.asdict(trainer.progress),
            "episodes": [list(episode) for episode in trainer.episodes.recent],
            "metrics": trainer.metrics,
        },
    )


def config_of(checkpoint: Checkpoint) -> Config:
    """The settings of the run that the checkpoint is of.

    Raises:
        CheckpointError: they cannot be used here.
    """
    with malformed():
        settings = dict(checkpoint.state["config"])
        known = {field.name for field in dataclasses.fields(Config)}
        if unknown := sorted(settings.keys() - known):
            raise CheckpointError(f"setting {unknown[0]!r} is not known to this version of rlkit_es")
        settings["hidden_sizes"] = tuple(settings["hidden_sizes"])
        if settings.get("critic_hidden_sizes") is not None:
            settings["critic_hidden_sizes"] = tuple(settings["critic_hidden_sizes"])
        try:
            return Config(**settings)
        except UserError as error:
            own = "; one of your own must be registered first: --import MODULE"
            hint = own if " must be one of " in str(error) else ""
            raise CheckpointError(f"its settings cannot be used: {error}{hint}") from error


def require_imported_environment(config: Config) -> None:
    """Refuse a configuration from a file that would have its environment's module imported.

    Raises:
        UserError: nobody has imported it in this process.
    """
    module = config.env_module
    if module and module not in sys.modules:
        raise UserError(
            f"the environment {config.env!r} is of a module that this file may not import: "
            f"import {module} yourself, or give --import {module} on the command line"
        )


def restored(checkpoint: Checkpoint, config: Config, ranks: Ranks | None = None) -> Trainer:
    """A trainer that goes on from ``checkpoint``; no environment is made before it is needed.

    Args:
        checkpoint: of `take_checkpoint`.
        config: its own (`config_of`), or one that asks for parameters of the same shapes. What scales
            rewards begins anew where that is done otherwise, what is random where the seed is another,
            and the last episodes and the best return where the environment is.
        ranks: as of `Trainer`. They may be others than before: a rank that was not there draws from
            generators of its own, and what follows is not what it would have been, only as good.

    Raises:
        CheckpointError: it does not hold what these settings need.
        UserError: the device cannot be used.
    """
    saved, spaces = config_of(checkpoint), read_spaces(checkpoint.state)
    require_size(checkpoint.tensors, config, spaces)
    with malformed():
        trainer = Trainer(config, spaces, ranks)
        tensors = _own_tensors(checkpoint, trainer, saved)
    _copy(tensors, {**_live_tensors(trainer), **_generator_states(trainer)})
    state = checkpoint.state
    with malformed():
        for name, generator in trainer.generators.items():
            drawn_from = require_mersenne_twister(tensors[f"generator.{name}"])
            if saved.seed == config.seed:
                generator.set_state(drawn_from)
        trainer.progress = read_progress(state["progress"])
        same_environment = all(getattr(saved, name) == getattr(config, name) for name in _ENVIRONMENT)
        if same_environment:
            trainer.episodes.recent.extend(
                Episode(int(env), float(total), int(length)) for env, total, length in state["episodes"]
            )
        if not same_environment or bool(saved.eval_every) != bool(config.eval_every):
            trainer.progress.forget_best()  # of another environment, or by another measure
        trainer.metrics = {str(name): float(value) for name, value in state["metrics"].items()}
    return trainer


def _live_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """What is copied into these is what training goes on from."""
    return {
        **_prefixed("policy", trainer.policy.state_dict()),
        **_scaler_tensors(trainer),
        **_prefixed("learner", trainer.learner.state_tensors()),
    }


def _scaler_tensors(trainer: Trainer) -> dict[str, Tensor]:
    scaler = trainer.reward_scaler
    return _prefixed("reward_scaler", {} if scaler is None else scaler.state_dict())


def _generator_states(trainer: Trainer) -> dict[str, Tensor]:
    return _prefixed("generator", {name: g.get_state() for name, g in trainer.generators.items()})


def _generators_of_all(trainer: Trainer) -> dict[str, Tensor]:
    """The states of every rank's, under names that say whose unless they are the first's."""
    states = {name: trainer.ranks.gather(x[None]) for name, x in _generator_states(trainer).items()}
    return {
        f"{name}.rank{rank}" if rank else name: state
        for name, of_ranks in states.items()
        for rank, state in enumerate(of_ranks)
    }


def ranks_of(checkpoint: Checkpoint) -> int:
    """How many trained together."""
    others = {match[1] for name in checkpoint.tensors if (match := _OF_ANOTHER_RANK.fullmatch(name))}
    return 1 + len(others)


def _own_tensors(checkpoint: Checkpoint, trainer: Trainer, saved: Config) -> dict[str, Tensor]:
    """What of ``checkpoint`` the rank of ``trainer`` goes on from."""
    held = checkpoint.tensors
    tensors = {name: value for name, value in held.items() if not _OF_ANOTHER_RANK.fullmatch(name)}
    if rank := trainer.ranks.rank:
        for name, state in _generator_states(trainer).items():
            tensors[name] = held.get(f"{name}.rank{rank}", state)
    return _with_scaler_of(trainer, tensors, saved)


def _with_scaler_of(trainer: Trainer, tensors: Mapping[str, Tensor], saved: Config) -> dict[str, Tensor]:
    """Rewards are scaled from anew where the settings do it otherwise than those that were ``saved``."""
    if saved.normalize_rewards == trainer.config.normalize_rewards:
        return dict(tensors)
    others = {k: v for k, v in tensors.items() if not k.startswith("reward_scaler.")}
    return others | _scaler_tensors(trainer)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    if different := sorted(source.keys() ^ target.keys()):
        there = "unexpected" if different[0] in source else "missing"
        raise CheckpointError(f"tensor {different[0]!r} is {there}")
    for name, value in target.items():
        held = source[name]
        if (held.shape, held.dtype) != (value.shape, value.dtype):
            raise CheckpointError(
                f"tensor {name!r} is {held.dtype} of shape {tuple(held.shape)}, which should be "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )
    for name, value in target.items():
        value.copy_(source[name])
