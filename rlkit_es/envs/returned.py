"""What `reset` and `step` of a user's environment return: as Gymnasium has it, or refused in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"

Fit = Callable[[Any], Any]

NO_NUMBER = (TypeError, ValueError, RuntimeError, OverflowError)  # NumPy and other libraries differ


class WrongReturnError(Exception):
    """A method returned what it may not; the message goes on from the method's name."""


def fitter(space: gym.Space[Any], name: str = "observation") -> Fit:
    """A function that returns an observation with the shapes of ``space`` and numbers that it can hold."""
    return fitter_of_leaves(space, name, _one)


def fitter_of_leaves(space: gym.Space[Any], name: str, of_leaf: Callable[[gym.Space[Any], str], Fit]) -> Fit:
    """A function that returns a Dict or Tuple with leaves as ``of_leaf`` has them; of another space, its."""
    if isinstance(space, spaces.Dict):
        leaves = [(key, fitter_of_leaves(part, f"{name}[{key!r}]", of_leaf)) for key, part in space.items()]
        return lambda observation: {key: fit(_leaf(observation, key, name)) for key, fit in leaves}
    if isinstance(space, spaces.Tuple):
        parts = [fitter_of_leaves(part, f"{name}[{index}]", of_leaf) for index, part in enumerate(space)]
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


def of_reset(result: Any, fit: Fit) -> Any:
    """The observation in what ``reset`` returned.

    Raises:
        WrongReturnError: it is not in a pair with an info, or is not of the space.
    """
    # An observation of two numbers can be taken apart too, but its second one is no info.
    pair = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[1], Mapping)
    if not pair:
        raise WrongReturnError(f"must return {RESET}, not {brief(result)}")
    return fit(result[0])


def of_step(result: Any, fit: Fit) -> tuple[Any, float, bool, bool]:
    """Observation, reward, ``terminated`` and ``truncated`` in what ``step`` returned.

    Raises:
        WrongReturnError: one of them is missing, or is not what it has to be.
    """
    observation, reward, terminated, truncated, _ = step_parts(result)
    return (
        fit(observation),
        _number(reward),
        _flag(terminated, "terminated"),
        _flag(truncated, "truncated"),
    )


def step_parts(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    """What ``step`` returned, taken apart as Gymnasium has it.

    Raises:
        WrongReturnError: these are not as many things.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 5:
        raise WrongReturnError(f"must return {STEP}, not {brief(result)}")
    observation, reward, terminated, truncated, info = result
    return observation, reward, terminated, truncated, info


def _leaf(observation: Any, key: str, name: str) -> Any:
    try:
        return observation[key]
    except (LookupError, TypeError) as error:
        raise WrongReturnError(f"returned {name} without {key!r}, which observation_space has") from error


def _fitted(observation: Any, parts: Sequence[Fit], name: str) -> tuple[Any, ...]:
    if not isinstance(observation, (tuple, list)) or len(observation) != len(parts):
        raise WrongReturnError(
            f"returned {brief(observation)} as {name}, which observation_space says is a tuple of "
            f"{len(parts)}"
        )
    return tuple(fit(part) for fit, part in zip(parts, observation, strict=True))


def _member(observation: Any, space: gym.Space[Any], name: str) -> Any:
    if not space.contains(observation):
        raise WrongReturnError(f"returned {brief(observation)} as {name}, which is not in {space}")
    # A space may hold an array of another dtype, which Gymnasium cannot put into its buffer.
    return observation if isinstance(space, spaces.Discrete) else np.asarray(observation, space.dtype)


def _converted(observation: Any, space: spaces.Box, name: str) -> np.ndarray:
    try:
        array = np.asarray(observation)
        converted = array.astype(space.dtype)
    except NO_NUMBER as error:
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
        f"returned {brief(observation)} as {name}, which observation_space says is an array of shape "
        f"{space.shape}"
    )


def _number(reward: Any) -> float:
    if isinstance(reward, float):
        return reward
    try:
        return float(_item(reward))
    except NO_NUMBER as error:
        raise WrongReturnError(f"returned {brief(reward)} as reward, which must be one number") from error


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    try:
        flag = _item(value)
    except NO_NUMBER:
        flag = None
    if flag not in (False, True):
        raise WrongReturnError(f"returned {brief(value)} as {name}, which must be True or False")
    return bool(flag)


def _item(value: Any) -> Any:
    """The one number in an array of any library."""
    return value.item() if hasattr(value, "item") else value


def brief(value: Any) -> str:
    """What ``value`` is, in a few words whatever its size."""
    if isinstance(value, tuple) and len(value) <= len(STEP.split()) + 1:
        return f"({', '.join(type(part).__name__ for part in value)})"
    if shape := getattr(value, "shape", ()):
        return f"an array of shape {tuple(shape)}"
    return " ".join(reprlib.repr(value).split())
