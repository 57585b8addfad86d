"""Reading what an agent was saved as, with settings that are to be otherwise from here on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkit_es.envs.env_kwargs import NO_KWARGS
from rlkit_es.errors import UserError
from rlkit_es.runs.checkpoint_store import find_checkpoint
from rlkit_es.training.checkpoint import Checkpoint, config_of
from rlkit_es.training.config import Config, as_settings
from rlkit_es.training.idle import refuse_idle, refuse_unrecorded

# What is not made anew where a policy and its optimiser are read.
_MADE_OF = (
    *("network", "hidden_sizes", "critic_hidden_sizes", "activation", "encoder", "share_encoder"),
    *("log_std_init", "normalize_observations", "observation_clip", "scale_actions"),
    *("constraint", "initial_penalty"),
)


def read_saved(
    path: str | Path, checkpoint: str | int, changes: Mapping[str, Any]
) -> tuple[Checkpoint, Config]:
    """A checkpoint and its settings with ``changes`` in their place; raises as `Algorithm.load`."""
    changes = as_settings(changes)
    loaded = find_checkpoint(Path(path), checkpoint)
    saved = config_of(loaded)
    if changes.get("algo", saved.algo) != saved.algo:
        raise UserError(
            f"algo is {saved.algo!r} in {path}, and cannot be otherwise: leave it out, or make a new agent "
            "of another class, rlkit_es.TRPO say"
        )
    for name in _MADE_OF:
        if changes.get(name, held := getattr(saved, name)) != held:
            raise UserError(f"{name} is {held!r} in {path}, and cannot be otherwise: leave it out")
    # A project to report to is asked for anew: a file, which may be a stranger's, does not choose it.
    anew: dict[str, Any] = {"wandb": None}
    if changes.get("env", saved.env) != saved.env:
        anew["env_kwargs"] = NO_KWARGS  # another constructor takes others
    config = dataclasses.replace(saved, **{**anew, **changes})
    refuse_idle(config, vars(saved))
    refuse_unrecorded(config)
    return loaded, config
