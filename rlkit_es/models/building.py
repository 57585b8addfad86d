"""Networks and encoders by name; what is wrong with one of the user's own is said in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rlkit_es.errors import UserError, line_and_type, look_up
from rlkit_es.models.encoders import ENCODERS, NatureCNN
from rlkit_es.models.networks import MLP, NETWORKS

_TABLES: Mapping[str, Mapping[str, Callable[..., Any]]] = {"network": NETWORKS, "encoder": ENCODERS}
_BUILT_IN = (MLP, NatureCNN)


def build(kind: str, name: str, *arguments: Any) -> nn.Module:
    """The ``network`` or ``encoder`` of that name.

    Raises:
        UserError: there is none, it cannot be made, or it has a layer that cannot work here.
    """
    make = look_up(kind, name, _TABLES[kind])
    if make in _BUILT_IN:  # what these raise is clear, or says that memory ended
        built: nn.Module = make(*arguments)
        return built
    try:
        module = make(*arguments)
    except Exception as error:
        raise UserError(f"{kind} {name} cannot be made: {line_and_type(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{kind} {name} is {described(module)}: it must be a torch.nn.Module")
    _check_layers(f"{kind} {name}", module)
    return module


@torch.no_grad()
def width_of(what: str, module: nn.Module, given: Tensor, outputs: int | None = None) -> int:
    """How many numbers ``module`` makes of each row of ``given`` (M, ...).

    Raises:
        UserError: not ``outputs`` where that is said, or it fails, or does not give (M, F) floating point.
    """
    rows = len(given)
    wanted = f"{what} must turn {tuple(given.shape)} into ({rows}, {'F' if outputs is None else outputs})"
    try:
        result: Any = module(given)
    except Exception as error:
        raise UserError(f"{wanted}: {line_and_type(error)}") from error
    if not (isinstance(result, Tensor) and result.is_floating_point() and result.dim() == 2):
        raise UserError(f"{wanted} of floating point numbers, and gives {described(result)}")
    width = result.shape[1]
    if len(result) != rows or outputs not in (None, width):
        raise UserError(f"{wanted}, and gives {described(result)}")
    return width


def described(value: Any) -> str:
    """What a function of the user's own returned, in a few words."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else f"a Python object of type {type(value).__name__}"


def _check_layers(what: str, module: nn.Module) -> None:
    for path, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) or (isinstance(layer, _DropoutNd) and layer.p > 0):
            named = f"{path} ({type(layer).__name__})" if path else type(layer).__name__
            raise UserError(
                f"{what} has the layer {named}, whose output is no function of one observation alone: "
                "leave it out (LayerNorm can be used)"
            )
