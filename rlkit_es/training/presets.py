"""Settings of published experiments, by name; docs/algorithms/presets.md has their sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlkit_es.errors import UserError, look_up

Settings = Mapping[str, Any]

# What PPO, ESPO and their dropout variants share in the code of both papers.
_SINGLE_ENV: Settings = {
    "num_envs": 1,
    "env_groups": 1,
    "rollout_steps": 2048,
    "epochs": 10,
    "critic_epochs": None,
    "learning_rate": 3e-4,
    "critic_learning_rate": None,
    "log_std_learning_rate": None,
    "recompute_advantages": False,
    "learning_rate_schedule": "linear",
    "horizon_growth": 1.0,
    "gae_lambda": 0.95,
    "common_gradient": 1.0,
    "value_coefficient": 0.25,
    "log_std_init": 0.0,
    "scale_actions": False,
    "total_steps": 10_000_000,
}
_THIRTY_TWO_MINIBATCHES: Settings = {"minibatch_size": 64}
_FOUR_MINIBATCHES: Settings = {"minibatch_size": 512}
_STOP: Settings = {"deviation_threshold": 0.25}
# The released SD-ESPO goes through its 10 x 32 minibatch steps with the full batch in each.
_FULL_BATCH: Settings = {"minibatch_size": 2048, "epochs": 320}

_NATURAL: Settings = {
    "num_envs": 1,
    "env_groups": 1,
    "rollout_steps": 1024,
    "hidden_sizes": (32, 32),
    "critic_epochs": 5,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "minibatch_size": 64,
    "max_grad_norm": float("inf"),
    "horizon_growth": 1.0,
    "gae_lambda": 0.98,
    "max_kl": 0.01,
    "max_kl_schedule": "constant",
    "cg_iterations": 10,
    "cg_damping": 0.1,
    "fisher_fraction": 0.2,
    "line_search_shrink": 0.5,
    "log_std_init": 0.0,
    "scale_actions": False,
    "total_steps": 10_000_000,
}

PRESETS: Mapping[str, Mapping[str, Settings]] = {
    # arXiv:2202.00079, the protocol of the paper's MuJoCo experiments.
    "reference-espo": {
        "espo": {**_SINGLE_ENV, **_THIRTY_TWO_MINIBATCHES, **_STOP},
        "ppo": {**_SINGLE_ENV, **_THIRTY_TWO_MINIBATCHES},
    },
    # arXiv:2302.02299, as its released code has it.
    "reference-sdpo": {
        "ppo": {**_SINGLE_ENV, **_FOUR_MINIBATCHES},
        "sd_ppo": {**_SINGLE_ENV, **_FOUR_MINIBATCHES, "dropout_threshold": 0.5, "mask_value": True},
        "espo": {**_SINGLE_ENV, **_THIRTY_TWO_MINIBATCHES, **_STOP},
        "sd_espo": {**_SINGLE_ENV, **_STOP, **_FULL_BATCH, "dropout_threshold": 0.25},
        "trpo": _NATURAL,
        # The mask is computed there, and never used.
        "sd_trpo": {**_NATURAL, "mask": "keep_all"},
    },
}


def preset_settings(preset: str, algo: str) -> Settings:
    """What ``preset`` sets for ``algo``.

    Raises:
        UserError: there is no such preset, or it has no settings for this algorithm.
    """
    by_algorithm = look_up("preset", preset, PRESETS)
    if algo not in by_algorithm:
        raise UserError(f"preset {preset} has no settings for {algo}; it is for {', '.join(by_algorithm)}")
    return by_algorithm[algo]
