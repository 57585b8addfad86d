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
            low=_inner_float32(space.low, np.inf),
            high=_inner_float32(space.high, -np.inf),
            shape=tuple(space.shape),
        )
    raise UserError(
        f"action space {space} is not supported: use gymnasium.wrappers.TransformAction to offer a float "
        "Box or a Discrete space instead"
    )


def _inner_float32(bound: np.ndarray, inwards: float) -> tuple[float, ...]:
    """The nearest float32 values that are not outside the bound: 0.1 as float32 is more than 0.1."""
    nearest = bound.astype(np.float32)
    outside = nearest < bound if inwards > 0 else nearest > bound
    inner = np.where(outside, np.nextafter(nearest, np.float32(inwards)), nearest)
    return tuple(float(x) for x in inner.flatten())
