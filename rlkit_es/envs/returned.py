"""What `reset` and `step` of a user's environment return: as Gymnasium has it, or refused in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit_es.envs.spaces import as_tensor

RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"

Fit = Callable[[Any], Any]

_FINAL = "info['final_obs']"

_NO_NUMBER = (TypeError, ValueError, RuntimeError, OverflowError)  # NumPy and other libraries differ


class WrongReturnError(Exception):
    """A method returned what it may not; the message goes on from the method's name."""


def fitter(space: gym.Space[Any], name: str = "observation") -> Fit:
    """A function that returns an observation with the shapes of ``space`` and numbers that it can hold."""
    return _tree(space, name, _one)


def batch_fitter(space: gym.Space[Any], num_envs: int, name: str = "observation") -> Fit:
    """As `fitter`, of observations (N, ...) that are arrays or tensors, which stay what they are."""
    return _tree(space, name, partial(_batch, num_envs))


def _tree(space: gym.Space[Any], name: str, of_leaf: Callable[[gym.Space[Any], str], Fit]) -> Fit:
    if isinstance(space, spaces.Dict):
        leaves = [(key, _tree(part, f"{name}[{key!r}]", of_leaf)) for key, part in space.items()]
        return lambda observation: {key: fit(_leaf(observation, key, name)) for key, fit in leaves}
    if isinstance(space, spaces.Tuple):
        parts = [_tree(part, f"{name}[{index}]", of_leaf) for index, part in enumerate(space)]
        return lambda observation: _fitted(observation, parts, name)
    return of_leaf(space, name)


def _one(space: gym.Space[Any], name: str) -> Fit:
    if not isinstance(space, spaces.Box):
        return lambda observation: _member(observation, space, name)
    shape, kind = space.shape, space.dtype.kind

    def fit(observation: Any) -> Any:
        if (
            isinstance(observation, np.ndarray)
            and observation.shape == shape
            and observation.dtype.kind == kind
        ):
            return observation
        return _converted(observation, space, name)

    return fit


def _batch(num_envs: int, space: gym.Space[Any], name: str) -> Fit:
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


def of_reset(result: Any, fit: Fit) -> Any:
    """The observation in what ``reset`` returned.

    Raises:
        WrongReturnError: it is not in a pair with an info, or is not of the space.
    """
    # An observation of two numbers can be taken apart too, but its second one is no info.
    pair = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[1], Mapping)
    if not pair:
        raise WrongReturnError(f"must return {RESET}, not {_brief(result)}")
    return fit(result[0])


def of_step(result: Any, fit: Fit) -> tuple[Any, float, bool, bool]:
    """Observation, reward, ``terminated`` and ``truncated`` in what ``step`` returned.

    Raises:
        WrongReturnError: one of them is missing, or is not what it has to be.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 5:
        raise WrongReturnError(f"must return {STEP}, not {_brief(result)}")
    observation, reward, terminated, truncated, _ = result
    return (
        fit(observation),
        _number(reward),
        _flag(terminated, "terminated"),
        _flag(truncated, "truncated"),
    )


class VectorFits(NamedTuple):
    """What is needed to look at what a vector environment returns."""

    num_envs: int
    batch: Fit  # observations of all of them
    final: Fit | None  # their last ones, of one that resets in the step that ends an episode
    one: Fit  # the last one of one of them

    @classmethod
    def of(cls, env: gym.vector.VectorEnv[Any, Any, Any]) -> Self:
        """Those of ``env``, by its spaces and its autoreset mode."""
        space, num_envs = env.single_observation_space, env.num_envs
        same_step = env.metadata.get("autoreset_mode") == gym.vector.AutoresetMode.SAME_STEP
        final = batch_fitter(space, num_envs, _FINAL) if same_step else None
        return cls(num_envs, batch_fitter(space, num_envs), final, fitter(space, _FINAL))


def of_vector_step(result: Any, fits: VectorFits) -> tuple[Any, Any, Tensor, Tensor, dict[str, Any]]:
    """What ``step`` of a vector environment returned, (N, ...); of the info ``final_obs``, if it is due.

    Raises:
        WrongReturnError: as of `of_step`.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 5:
        raise WrongReturnError(f"must return {STEP}, not {_brief(result)}")
    observation, reward, terminated, truncated, info = result
    observation, reward = fits.batch(observation), _array(reward, (fits.num_envs,), "reward")
    terminated = _flags(terminated, fits.num_envs, "terminated")
    truncated = _flags(truncated, fits.num_envs, "truncated")
    ended = terminated | truncated
    if fits.final is None or not ended.any():
        return observation, reward, terminated, truncated, {}
    if not isinstance(info, Mapping) or "final_obs" not in info:
        raise WrongReturnError(
            f"must return the last observations as {_FINAL}, since it resets within the step that ends an "
            "episode (SAME_STEP): what follows a truncation is valued there"
        )
    final = info["final_obs"]
    if isinstance(final, np.ndarray) and final.shape == (fits.num_envs,) and final.dtype == object:
        # As Gymnasium's own have it: each in an array of its own. What follows a termination is never used.
        rows = np.full(fits.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended.cpu()):
            if final[i] is not None or not terminated[i]:
                rows[i] = fits.one(final[i])
        return observation, reward, terminated, truncated, {"final_obs": rows}
    return observation, reward, terminated, truncated, {"final_obs": fits.final(final)}


def _array(value: Any, shape: tuple[int, ...], name: str) -> Any:
    """A tensor as it is; anything else as an array of a kind that a tensor can be made of."""
    array = value
    if not (isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex()):
        try:
            array = np.asarray(value)
            if array.dtype.kind in "fV":  # bfloat16 of other libraries is V
                array = array.astype(np.float32, copy=False)
            elif array.dtype.kind in "iu":
                array = array.astype(array.dtype.newbyteorder("="), copy=False)
            elif array.dtype.kind != "b":
                raise TypeError
        except _NO_NUMBER as error:
            raise WrongReturnError(
                f"returned {_brief(value)} as {name}, which must be an array of numbers"
            ) from error
    if tuple(array.shape) != shape:
        raise WrongReturnError(f"returned {_brief(value)} as {name}, which must be an array of shape {shape}")
    return array


def _flags(value: Any, num_envs: int, name: str) -> Tensor:
    flags = as_tensor(_array(value, (num_envs,), name))
    if flags.dtype is not torch.bool and not bool(((flags == 0) | (flags == 1)).all()):
        raise WrongReturnError(f"returned {_brief(value)} as {name}, which must be of True and False")
    return flags.bool()


def _leaf(observation: Any, key: str, name: str) -> Any:
    try:
        return observation[key]
    except (LookupError, TypeError) as error:
        raise WrongReturnError(f"returned {name} without {key!r}, which observation_space has") from error


def _fitted(observation: Any, parts: Sequence[Fit], name: str) -> tuple[Any, ...]:
    if not isinstance(observation, (tuple, list)) or len(observation) != len(parts):
        raise WrongReturnError(
            f"returned {_brief(observation)} as {name}, which observation_space says is a tuple of "
            f"{len(parts)}"
        )
    return tuple(fit(part) for fit, part in zip(parts, observation, strict=True))


def _member(observation: Any, space: gym.Space[Any], name: str) -> Any:
    if not space.contains(observation):
        raise WrongReturnError(f"returned {_brief(observation)} as {name}, which is not in {space}")
    # A space may hold an array of another dtype, which Gymnasium cannot put into its buffer.
    return observation if isinstance(space, spaces.Discrete) else np.asarray(observation, space.dtype)


def _converted(observation: Any, space: spaces.Box, name: str) -> np.ndarray:
    try:
        array = np.asarray(observation)
        converted = array.astype(space.dtype)
    except _NO_NUMBER as error:
        raise _wrong_shape(observation, space, name) from error
    if array.shape != space.shape:
        raise _wrong_shape(observation, space, name)
    if converted.dtype.kind != "f" and not np.array_equal(converted, array):
        raise WrongReturnError(
            f"returned {name} as {array.dtype} with numbers that {space.dtype}, the dtype of "
            "observation_space, cannot hold"
        )
    return converted


def _wrong_shape(observation: Any, space: spaces.Box, name: str) -> WrongReturnError:
    return WrongReturnError(
        f"returned {_brief(observation)} as {name}, which observation_space says is an array of shape "
        f"{space.shape}"
    )


def _number(reward: Any) -> float:
    if isinstance(reward, float):
        return reward
    try:
        return float(_item(reward))
    except _NO_NUMBER as error:
        raise WrongReturnError(f"returned {_brief(reward)} as reward, which must be one number") from error


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    try:
        flag = _item(value)
    except _NO_NUMBER:
        flag = None
    if flag not in (False, True):
        raise WrongReturnError(f"returned {_brief(value)} as {name}, which must be True or False")
    return bool(flag)


def _item(value: Any) -> Any:
    """The one number in an array of any library."""
    return value.item() if hasattr(value, "item") else value


def _brief(value: Any) -> str:
    """What ``value`` is, in a few words whatever its size."""
    if isinstance(value, tuple) and len(value) <= len(STEP.split()) + 1:
        return f"({', '.join(type(part).__name__ for part in value)})"
    if shape := getattr(value, "shape", ()):
        return f"an array of shape {tuple(shape)}"
    return " ".join(reprlib.repr(value).split())
