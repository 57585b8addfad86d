"""What `reset` and `step` of a user's environment return: as Gymnasium has it, or refused in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"

Fit = Callable[[Any], Any]

_NO_NUMBER = (TypeError, ValueError, RuntimeError, OverflowError)  # NumPy and other libraries differ


class WrongReturnError(Exception):
    """A method returned what it may not; the message goes on from the method's name."""


def fitter(space: gym.Space[Any], name: str = "observation") -> Fit:
    """A function that returns an observation with the shapes of ``space`` and numbers that it can hold."""
    if isinstance(space, spaces.Dict):
        leaves = [(key, fitter(leaf, f"{name}[{key!r}]")) for key, leaf in space.spaces.items()]
        return lambda observation: {key: fit(_leaf(observation, key, name)) for key, fit in leaves}
    if isinstance(space, spaces.Tuple):
        parts = [fitter(part, f"{name}[{index}]") for index, part in enumerate(space)]
        return lambda observation: _fitted(observation, parts, name)
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


def of_vector_reset(result: Any, space: gym.Space[Any], num_envs: int) -> Any:
    """The batched observation (N, ...) in what ``reset`` of a vector environment returned.

    Raises:
        WrongReturnError: as of `of_reset`, but that numbers are not looked at.
    """
    observation = of_reset(result, lambda observation: observation)
    _require_batch(observation, space, num_envs, "observation")
    return observation


def of_vector_step(
    result: Any, space: gym.Space[Any], num_envs: int
) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """What ``step`` of a vector environment returned; arrays or tensors, (N,) but for the observation.

    Raises:
        WrongReturnError: as of `of_step`, but that numbers are not looked at.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 5:
        raise WrongReturnError(f"must return {STEP}, not {_brief(result)}")
    observation, reward, terminated, truncated, info = result
    _require_batch(observation, space, num_envs, "observation")
    for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        _require_array(value, (num_envs,), name)
    return observation, reward, terminated, truncated, info


def _require_batch(observation: Any, space: gym.Space[Any], num_envs: int, name: str) -> None:
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            _require_batch(_leaf(observation, key, name), part, num_envs, f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        parts = [
            partial(_require_batch, space=part, num_envs=num_envs, name=f"{name}[{i}]")
            for i, part in enumerate(space)
        ]
        _fitted(observation, parts, name)
    else:
        _require_array(observation, (num_envs, *(space.shape or ())), name)


def _require_array(value: Any, shape: tuple[int, ...], name: str) -> None:
    numbers = value.dtype.kind in "biuf" if isinstance(value, np.ndarray) else hasattr(value, "shape")
    if not numbers or tuple(value.shape) != shape:
        raise WrongReturnError(f"returned {_brief(value)} as {name}, which must be an array of shape {shape}")


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
    return observation


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
