"""Surrogates, masks, stops, constraints, networks and encoders of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Literal, TypeVar

from rlkit_es.errors import UserError, look_up
from rlkit_es.learners.config import DEFAULTS
from rlkit_es.learners.slots import BUILT_IN, DATA, SLOTS
from rlkit_es.models.encoders import ENCODERS
from rlkit_es.models.networks import NETWORKS

Kind = Literal["surrogate", "mask", "stop", "constraint", "network", "encoder"]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# What the first arguments of each kind are given.
_DATA = {
    **DATA,
    "network": ("sizes", "activation", "output_gain", "generator"),
    "encoder": ("shape", "generator"),
}
_TABLES: dict[str, dict[str, Any]] = {**SLOTS, "network": NETWORKS, "encoder": ENCODERS}
_BUILT_IN = {**BUILT_IN, "network": frozenset(NETWORKS), "encoder": frozenset(ENCODERS)}
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)


def register(kind: Kind) -> Callable[[_Function], _Function]:
    """Have the configuration know a function by its name: a decorator.

    Args:
        kind: what it is. A ``surrogate``, ``mask`` or ``stop`` is a pure function of tensors as those in
            `rlkit_es.core`: ``(stats, advantage)`` to (M,) values to be maximised, ``(stats, advantage)``
            to (M,) bool, ``(stats, valid)`` to () bool; a ``constraint`` takes ``(stats)`` to (M,) values
            that are 0 where the policy has not moved. Further arguments are hyperparameters: those that
            are fields of `UpdateConfig` get their values from there, others need a default. A
            ``network`` takes ``(sizes, activation, output_gain, generator)`` as
            `rlkit_es.models.networks.MLP` does, and returns a module from (M, sizes[0]) to
            (M, sizes[-1]); an ``encoder`` takes ``(shape, generator)`` and returns a module from pictures
            (M, *shape) uint8 to features (M, F). Each is tried on a few samples before it is trained with.

    Raises:
        UserError: there is no such kind, or the function does not fit it or has the name of one that
            comes with the library.
    """
    table = look_up("kind", kind, _TABLES)

    def add(function: _Function) -> _Function:
        name = getattr(function, "__name__", "")
        if not name.isidentifier():
            raise UserError(f"{kind} {function!r} needs a name: write it as a function")
        if name in _BUILT_IN[kind]:
            raise UserError(f"{kind} {name} comes with the library: choose another name")
        _check_arguments(kind, name, function)
        table[name] = function
        return function

    return add


def _check_arguments(kind: str, name: str, function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    data, hyperparameters = parameters[: len(_DATA[kind])], parameters[len(_DATA[kind]) :]
    if sum(parameter.kind in _BY_POSITION for parameter in data) < len(_DATA[kind]):
        raise UserError(f"{kind} {name} must take {', '.join(_DATA[kind])} by position")
    known = set() if kind in ("network", "encoder") else set(DEFAULTS)
    for parameter in hyperparameters:
        if parameter.name not in known and parameter.default is Parameter.empty:
            raise UserError(
                f"{kind} {name} takes {parameter.name!r}, which is no setting: give it a default value"
            )
