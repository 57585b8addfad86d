"""From Gymnasium spaces to what the networks take, or a refusal that names the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlkit_es.errors import UserError
from rlkit_es.types import ActionSpec

Flatten = Callable[[object], np.ndarray]


def observation_size(space: gym.Space[Any]) -> int:
    """O: the total size of the space's Box leaves.

    Raises:
        UserError: the space has a leaf that is no Box, or holds pixels.
    """
    if isinstance(space, spaces.Dict):
        return sum(observation_size(leaf) for leaf in space.values())
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"observation space {space} is not supported: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation, which turns it into a Box"
        )
    if space.dtype == np.uint8 and len(space.shape) >= 2:
        raise UserError(
            f"pixel observations {space.shape} need a convolutional network, which is not available: "
            "use the state-based environment, or wrap in gymnasium.wrappers.FlattenObservation"
        )
    return int(np.prod(space.shape))


def flattener(space: gym.Space[Any], num_envs: int) -> Flatten:
    """A function from batched observations of ``space`` to one (N, O) array, Dict leaves in key order."""
    if isinstance(space, spaces.Dict):
        leaves = [(key, flattener(leaf, num_envs)) for key, leaf in space.items()]
        return lambda observation: np.concatenate(
            [flatten(observation[key]) for key, flatten in leaves],  # type: ignore[index]
            axis=1,
        )
    return lambda observation: np.asarray(observation).reshape(num_envs, -1)


def action_spec(space: gym.Space[Any]) -> ActionSpec:
    """What one action is.

    Raises:
        UserError: the space is neither a float Box nor Discrete.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec(size=int(space.n), discrete=True, start=int(space.start))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return ActionSpec(
            size=int(np.prod(space.shape)),
            low=tuple(float(x) for x in space.low.flatten()),
            high=tuple(float(x) for x in space.high.flatten()),
            shape=tuple(space.shape),
        )
    raise UserError(
        f"action space {space} is not supported: use gymnasium.wrappers.TransformAction to offer a float "
        "Box or a Discrete space instead"
    )
