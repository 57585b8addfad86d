"""Whose environment an id means: Gymnasium's, which EnvPool may have too, or somebody else's."""

from __future__ import annotations

import functools
import warnings

import gymnasium as gym
from gymnasium.envs import registration

from rlkit_es.envs.gymnasium_backend import make_gymnasium
from rlkit_es.envs.ids import is_dm_control


def package_of(spec: registration.EnvSpec) -> str:
    """That its environment is made by."""
    module, *_ = str(getattr(spec.entry_point, "__module__", spec.entry_point)).partition(":")
    return module.partition(".")[0]


# What came with Gymnasium: somebody may have registered another environment by its id since.
_OF_GYMNASIUM = {name: spec for name, spec in gym.registry.items() if package_of(spec) == "gymnasium"}
# Other packages whose environments EnvPool has by the same ids.
_ALSO_IN_ENVPOOL = ("gymnasium_robotics", "minigrid")
# What EnvPool has by the same id shows something else: three numbers in place of three choices.
_OTHERWISE_IN_ENVPOOL = ("Blackjack-v1",)


def is_of_another(env_id: str) -> bool:
    """Whether the id means an environment that EnvPool cannot know, even if it has one of that id."""
    if env_id not in gym.registry or is_dm_control(env_id):
        return False
    if env_id in _OTHERWISE_IN_ENVPOOL:
        return True
    spec = gym.registry[env_id]
    return spec is not _OF_GYMNASIUM.get(env_id) and package_of(spec) not in _ALSO_IN_ENVPOOL


@functools.cache
def gymnasium_serves(env_id: str) -> bool:
    """Whether its own environment of that id can be made here, and is of spaces that can be learned from."""
    if env_id not in _OF_GYMNASIUM:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are for when it is made to be stepped
            make_gymnasium(env_id, 1, asynchronous=False).close()
    except Exception:  # as MuJoCo's old versions, which only EnvPool still has
        return False
    return True
