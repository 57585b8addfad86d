"""Arguments of an environment's constructor: JSON values that nobody can change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Never

import numpy as np

from rlkit_es.errors import UserError, is_number

_DEEPEST = 20


class EnvKwargs(dict[str, Any]):
    """Arguments by name, as `frozen` makes them: lists are tuples and dicts as it is, so it has a hash."""

    def _refuse(self, *_: Any, **__: Any) -> Never:
        raise TypeError("env_kwargs cannot be changed: give others to dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[EnvKwargs], tuple[dict[str, Any]]]:
        return EnvKwargs, (dict(self),)  # items are else set one by one


NO_KWARGS = EnvKwargs()


def frozen(given: Any) -> EnvKwargs:
    """A copy of the arguments ``given`` by name.

    Raises:
        UserError: they are none, one is no JSON value, or one is for the library to set.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"env_kwargs must be a dict of arguments by name, {{'g': 5.0}} say, got {given!r}")
    if "render_mode" in given:
        raise UserError(
            "env_kwargs may not have render_mode, which rlkit-es record and play choose: leave it out"
        )
    found = _frozen(given, "env_kwargs", 0)
    assert isinstance(found, EnvKwargs)
    return found


def thawed(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain dicts and lists: a constructor may keep what it is given, and change it."""
    return {name: _thawed(value) for name, value in kwargs.items()}


def _frozen(value: Any, place: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise UserError(f"env_kwargs must not be nested more than {_DEEPEST} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if wrong := [key for key in value if type(key) is not str]:
            raise UserError(f"the names in {place} must be strings, got {wrong[0]!r}")
        return EnvKwargs((k, _frozen(v, f"{place}[{k!r}]", depth + 1)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(_frozen(v, f"{place}[{i}]", depth + 1) for i, v in enumerate(value))
    if value is None or type(value) in (str, bool):
        return value
    if type(value) in (int, float) and is_number(value) and math.isfinite(value):
        return value
    kind = repr(value) if isinstance(value, float) else f"a value of type {type(value).__name__}"
    raise UserError(
        f"{place} must be a JSON value (a string, a finite number, True, False, None, a list or a dict), "
        f"got {kind}: register an id that makes your environment with anything else"
    )


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_thawed(item) for item in value]
    return thawed(value) if isinstance(value, EnvKwargs) else value
