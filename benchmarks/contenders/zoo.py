"""What the users of Stable-Baselines3 are told to set: the values of rl-baselines3-zoo.

From hyperparams/ppo.yml and hyperparams/trpo.yml at revision 22e3ff2450fd of DLR-RM/rl-baselines3-zoo.
There are no schedules among them. Names are those of the models' arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ZooEntry:
    """One environment's entry; ``normalize`` is true in all of them."""

    num_envs: int
    model: Mapping[str, Any]


_PPO_COMMON: Mapping[str, Any] = {
    "n_steps": 512,
    "policy_kwargs": {
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": nn.ReLU,
        "net_arch": {"pi": [256, 256], "vf": [256, 256]},
    },
}

ZOO_PPO: Mapping[str, ZooEntry] = {
    "HalfCheetah-v4": ZooEntry(
        num_envs=1,
        model={
            **_PPO_COMMON,
            "batch_size": 64,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.92,
            "learning_rate": 2.0633e-05,
            "ent_coef": 0.000401762,
            "clip_range": 0.1,
            "max_grad_norm": 0.8,
            "vf_coef": 0.58096,
        },
    ),
    "Walker2d-v4": ZooEntry(
        num_envs=1,
        # This entry alone says nothing of the networks.
        model={
            "n_steps": 512,
            "batch_size": 32,
            "n_epochs": 20,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "learning_rate": 5.05041e-05,
            "ent_coef": 0.000585045,
            "clip_range": 0.1,
            "max_grad_norm": 1,
            "vf_coef": 0.871923,
        },
    ),
    "Hopper-v4": ZooEntry(
        num_envs=1,
        model={
            **_PPO_COMMON,
            "batch_size": 32,
            "n_epochs": 5,
            "gamma": 0.999,
            "gae_lambda": 0.99,
            "learning_rate": 9.80828e-05,
            "ent_coef": 0.00229519,
            "clip_range": 0.2,
            "max_grad_norm": 0.7,
            "vf_coef": 0.835671,
        },
    ),
}

_TRPO_COMMON: Mapping[str, Any] = {
    "batch_size": 128,
    "n_steps": 1024,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "sub_sampling_factor": 1,
    "cg_max_steps": 25,
    "cg_damping": 0.1,
    "n_critic_updates": 20,
    "learning_rate": 1e-3,
}

ZOO_TRPO: Mapping[str, ZooEntry] = {
    "HalfCheetah-v4": ZooEntry(num_envs=2, model={**_TRPO_COMMON, "target_kl": 0.04}),
    "Walker2d-v4": ZooEntry(num_envs=2, model=_TRPO_COMMON),
    "Hopper-v4": ZooEntry(num_envs=2, model=_TRPO_COMMON),
}
