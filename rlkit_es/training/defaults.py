"""What is usual for a kind of environment, where it differs (docs/environments.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlkit_es.envs.ids import is_atari, is_dm_control
from rlkit_es.learners.recipes import Recipe

Settings = Mapping[str, Any]

# The horizons and rates that recipes have of their own were chosen on MuJoCo, and are not known to be right
# elsewhere.
_ONE_HORIZON: Settings = {"horizon_growth": 1.0, "gae_lambda": 0.95}
_ONE_RATE: Settings = {
    "critic_learning_rate": None,
    "log_std_learning_rate": None,
    "recompute_advantages": False,
}

# Schulman et al. (arXiv:1707.06347), table 5, with the Nature CNN and rewards by their sign.
_ATARI: Settings = {
    "total_steps": 10_000_000,
    "num_envs": 8,
    "rollout_steps": 128,
    "minibatch_size": 256,
    "critic_epochs": 4,
    "hidden_sizes": (),
    "normalize_observations": False,
    "normalize_rewards": False,
    "sign_rewards": True,
    "torch_threads": 0,
    **_ONE_HORIZON,
}
_ATARI_ADAM: Settings = {
    "epochs": 4,
    "learning_rate": 2.5e-4,
    **_ONE_RATE,
    "clip_range": 0.1,
    # What a clip range of 0.1 leaves of E|r - 1| is 0.05 to 0.07; with 0.25 ESPO learned nothing in 650,000
    # steps of Pong.
    "deviation_threshold": 0.1,
    "entropy_coefficient": 0.01,
}
# With all of the gradient ESPO learned neither Breakout nor Pong. With 2.5e-4 a single step of Adam came to
# move the policy as far as the threshold (docs/environments.md).
_ATARI_STOPPING: Settings = {
    "common_gradient": 0.0,
    "learning_rate": 1e-4,
    "critic_learning_rate": 2.5e-4,
}
# One step for each batch: a larger one, and few states for the Fisher information.
_ATARI_NATURAL: Settings = {
    "rollout_steps": 256,
    "learning_rate": 2.5e-4,
    "max_kl": 0.01,
    "max_kl_schedule": "constant",
    "dropout_kl": 0.04,
    "fisher_fraction": 0.2,
}
# Rewards are sparse: with -0.5 two of three seeds never find the first one of finger-spin.
_DM_CONTROL: Settings = {"log_std_init": 0.0, **_ONE_HORIZON}
_DM_CONTROL_ADAM: Settings = {"num_envs": 64, "rollout_steps": 32, "learning_rate": 3e-4, **_ONE_RATE}


def env_defaults(env_id: str, recipe: Recipe) -> Settings:
    """The settings of ``recipe`` for environments like ``env_id``."""
    adam = recipe.step == "adam"
    if is_atari(env_id):
        stopping = _ATARI_STOPPING if recipe.stop != "never" else {}
        return {**_ATARI, **(_ATARI_ADAM if adam else _ATARI_NATURAL), **stopping}
    if is_dm_control(env_id):
        return {**_DM_CONTROL, **(_DM_CONTROL_ADAM if adam else {})}
    return {}
