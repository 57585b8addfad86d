"""What a user's vector environment returns, as `returned` has it of a single one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit_es.envs.returned import (
    NO_NUMBER,
    Fit,
    WrongReturnError,
    brief,
    fitter,
    fitter_of_leaves,
    step_parts,
)
from rlkit_es.envs.spaces import as_tensor

_FINAL = "info['final_obs']"


class VectorFits(NamedTuple):
    """What is needed to look at what a vector environment returns."""

    num_envs: int
    batch: Fit  # observations of all of them
    final: Fit  # their last ones
    one: Fit  # the last one of one of them
    same_step: bool  # whether it resets in the step that ends an episode, and owes the last ones

    @classmethod
    def of(cls, env: gym.vector.VectorEnv[Any, Any, Any]) -> Self:
        """Those of ``env``, by its spaces and its autoreset mode."""
        space, num_envs = env.single_observation_space, env.num_envs
        same_step = env.metadata.get("autoreset_mode") == gym.vector.AutoresetMode.SAME_STEP
        batch, final = (batch_fitter(space, num_envs, name) for name in ("observation", _FINAL))
        return cls(num_envs, batch, final, fitter(space, _FINAL), same_step)


def of_vector_step(result: Any, fits: VectorFits) -> tuple[Any, Any, Tensor, Tensor, dict[str, Any]]:
    """What ``step`` of a vector environment returned, (N, ...); of the info ``final_obs``, if it is due.

    Raises:
        WrongReturnError: as of `of_step`.
    """
    observation, reward, terminated, truncated, info = step_parts(result)
    observation, reward = fits.batch(observation), _array(reward, (fits.num_envs,), "reward")
    terminated = _flags(terminated, fits.num_envs, "terminated")
    truncated = _flags(truncated, fits.num_envs, "truncated")
    ended = terminated | truncated
    due = fits.same_step and bool(ended.any())
    further = {"final_obs": _final_observations(info, ended, terminated, fits)} if due else {}
    return observation, reward, terminated, truncated, further


def _final_observations(info: Any, ended: Tensor, terminated: Tensor, fits: VectorFits) -> Any:
    """The last observations (N, ...), or an array of objects (N,), None where there need not be one."""
    if not isinstance(info, Mapping) or "final_obs" not in info:
        raise WrongReturnError(
            f"must return the last observations as {_FINAL}, since it resets within the step that ends an "
            "episode (SAME_STEP): what follows a truncation is valued there"
        )
    final = info["final_obs"]
    if not (isinstance(final, np.ndarray) and final.shape == (fits.num_envs,) and final.dtype == object):
        return fits.final(final)
    # As Gymnasium's own have it: each in an array of its own. What follows a termination is never used.
    rows = np.full(fits.num_envs, None, dtype=object)
    for i in np.flatnonzero(ended.cpu()):
        if final[i] is not None or not terminated[i]:
            rows[i] = fits.one(final[i])
    return rows


def batch_fitter(space: gym.Space[Any], num_envs: int, name: str = "observation") -> Fit:
    """As `fitter`, of observations (N, ...) that are arrays or tensors, which stay what they are."""
    return fitter_of_leaves(space, name, partial(_batch_of_leaf, num_envs))


def _batch_of_leaf(num_envs: int, space: gym.Space[Any], name: str) -> Fit:
    shape = (num_envs, *(space.shape or ()))
    whole = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    bytes_alone = isinstance(space, spaces.Box) and space.dtype == np.uint8

    def fit(observation: Any) -> Any:
        array = _array(observation, shape, name)
        dtype = str(array.dtype).removeprefix("torch.")
        if (bytes_alone and dtype != "uint8") or (whole and "int" not in dtype):
            raise WrongReturnError(
                f"returned {dtype} as {name}, which observation_space says is {space.dtype}"
            )
        return array

    return fit


def _array(value: Any, shape: tuple[int, ...], name: str) -> Any:
    """A tensor as it is; anything else as an array of a kind that a tensor can be made of."""
    try:
        array = value if _is_plain_tensor(value) else _numbers(value)
    except NO_NUMBER as error:
        raise WrongReturnError(
            f"returned {brief(value)} as {name}, which must be an array of numbers"
        ) from error
    if tuple(array.shape) != shape:
        raise WrongReturnError(f"returned {brief(value)} as {name}, which must be an array of shape {shape}")
    return array


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex()


def _numbers(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "fV":  # bfloat16 of other libraries is V
        return array.astype(np.float32, copy=False)
    if array.dtype.kind in "iu":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "b":
        return array
    raise TypeError


def _flags(value: Any, num_envs: int, name: str) -> Tensor:
    flags = as_tensor(_array(value, (num_envs,), name))
    if flags.dtype is not torch.bool and not bool(((flags == 0) | (flags == 1)).all()):
        raise WrongReturnError(f"returned {brief(value)} as {name}, which must be of True and False")
    return flags.bool()
