"""From Gymnasium spaces to what the networks take, or a refusal that names the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit_es.errors import UserError
from rlkit_es.types import ActionSpec, ObservationSpec

Flatten = Callable[[Any], Tensor]

_MUJOCO_INFINITY = 1e10  # mjMAXVAL: what DM Control gives for an actuator without a range


def observation_spec(space: gym.Space[Any]) -> ObservationSpec:
    """What one observation is: a picture (C, H, W), or all its `leaves` as numbers (O,).

    Raises:
        UserError: the space has a leaf that is none of `leaves`, or pixels that are no single picture.
    """
    if _is_pixels(space):
        return ObservationSpec(_channels_first(space.shape))  # type: ignore[arg-type]
    return ObservationSpec((sum(map(_numbers, leaves(space))),))


def leaves(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    """What a Dict or Tuple consists of, in the order of `gymnasium.spaces.flatten`; else the space itself.

    Leaves are Box and MultiBinary, whose numbers are taken as they are, and Discrete and MultiDiscrete,
    of which each becomes as many numbers as it has values: 1 for the one that it has, else 0.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [space]
    return [leaf for _, part in _parts(space) for leaf in leaves(part)]


def flattener(space: gym.Space[Any], num_envs: int) -> Flatten:
    """A function from batched observations of ``space`` to one tensor (N, *shape) of `observation_spec`.

    Numbers are flattened as `gymnasium.spaces.flatten` does it; of a picture the channels come first.
    Arrays or tensors may be given; memory is shared where nothing has to be converted.
    """
    if _is_pixels(space):
        shape = space.shape
        assert shape is not None
        if _channels_first(shape) == shape:
            return as_tensor
        if len(shape) == 2:
            return lambda observation: as_tensor(observation)[:, None]
        return lambda observation: as_tensor(observation).movedim(-1, 1).contiguous()
    return _numbers_flattener(space, num_envs)


def as_tensor(batch: Any) -> Tensor:
    """A tensor as it is, or an array as a tensor on the CPU that shares its memory if it can."""
    if isinstance(batch, Tensor):
        return batch.detach()
    array = np.asarray(batch)
    shareable = array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if shareable else array.copy())


def of_tensors(observation: Any, space: gym.Space[Any]) -> bool:
    """Whether there are tensors in a batched observation."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return any(of_tensors(observation[key], part) for key, part in _parts(space))
    return isinstance(observation, Tensor)


def batch_of_one(observation: Any) -> Any:
    """One observation, with a dimension for the number of them in front."""
    if isinstance(observation, dict):
        return {key: batch_of_one(leaf) for key, leaf in observation.items()}
    if isinstance(observation, tuple):
        return tuple(map(batch_of_one, observation))
    return np.asarray(observation)[None]


def _is_pixels(space: gym.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) of a picture (H, W), (C, H, W) or (H, W, C): the channels are the fewest."""
    if len(shape) == 2:
        return (1, *shape)
    return shape if shape[0] <= shape[2] else (shape[2], *shape[:2])


def _parts(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[Any, gym.Space[Any]]]:
    return list(space.items() if isinstance(space, spaces.Dict) else enumerate(space))


def _numbers(leaf: gym.Space[Any]) -> int:
    if not isinstance(leaf, spaces.Box | spaces.MultiBinary | spaces.Discrete | spaces.MultiDiscrete):
        raise UserError(
            f"observation space {leaf} is not supported: wrap the environment in "
            "gymnasium.wrappers.TransformObservation, which can turn it into a Box"
        )
    if isinstance(leaf, spaces.Box) and leaf.dtype == np.uint8 and len(leaf.shape) >= 2:
        raise UserError(
            f"pixel observations {leaf.shape} are not one picture of height, width and channels: wrap the "
            "environment in gymnasium.wrappers.GrayscaleObservation before its frames are stacked, or in "
            "gymnasium.wrappers.FlattenObservation"
        )
    return spaces.flatdim(leaf)


def _numbers_flattener(space: gym.Space[Any], num_envs: int) -> Flatten:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = [(key, _numbers_flattener(part, num_envs)) for key, part in _parts(space)]
        return lambda observation: torch.cat([flatten(observation[key]) for key, flatten in parts], dim=1)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return _one_hot(space, num_envs)
    return lambda observation: as_tensor(observation).reshape(num_envs, -1).to(torch.float32)


def _one_hot(space: spaces.Discrete | spaces.MultiDiscrete, num_envs: int) -> Flatten:
    count = torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec).flatten().long()
    start = torch.as_tensor(space.start).flatten().long()
    first_column = count.cumsum(0) - count
    total = int(count.sum())

    def flatten(observation: Any) -> Tensor:
        value = as_tensor(observation).reshape(num_envs, -1)
        device = value.device
        number = value.long() - start.to(device)
        if bool(((number < 0) | (number >= count.to(device))).any()):
            raise UserError(f"an environment returned an observation that is not in {space}")
        columns = number + first_column.to(device)
        return torch.zeros(num_envs, total, device=device).scatter_(1, columns, 1.0)

    return flatten


def action_spec(space: gym.Space[Any]) -> ActionSpec:
    """What one action is.

    Raises:
        UserError: the space is neither a float Box nor Discrete, or there is nothing to choose.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec(size=int(space.n), discrete=True, start=int(space.start))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and np.prod(space.shape):
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
    bound = np.where(np.abs(bound) >= _MUJOCO_INFINITY, np.copysign(np.inf, bound), bound)
    nearest = bound.astype(np.float32)
    outside = nearest < bound if inwards > 0 else nearest > bound
    inner = np.where(outside, np.nextafter(nearest, np.float32(inwards)), nearest)
    return tuple(float(x) for x in inner.flatten())
