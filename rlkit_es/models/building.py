"""Networks and encoders by name; what is wrong with one of the user's own is said in one line."""

from __future__ import annotations

import contextlib
import warnings
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
_ROWS = 4  # that `check_rows` tries
_ROUNDING = 1e-2  # of the largest output: more than bfloat16 rounds, where a network computes in it


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
def width_of(what: str, module: Callable[[Tensor], Any], given: Tensor, outputs: int | None = None) -> int:
    """How many numbers ``module`` makes of each row of ``given`` (M, ...).

    Raises:
        UserError: not ``outputs`` where that is said, or it fails, or does not give (M, F) floating point.
    """
    rows = len(given)
    wanted = f"{what} must turn {tuple(given.shape)} into ({rows}, {'F' if outputs is None else outputs})"
    try:
        result = module(given)
    except Exception as error:
        raise UserError(f"{wanted}: {line_and_type(error)}") from error
    if not (isinstance(result, Tensor) and result.is_floating_point() and result.dim() == 2):
        raise UserError(f"{wanted} of floating point numbers, and gives {described(result)}")
    width = result.shape[1]
    if len(result) != rows or outputs not in (None, width):
        raise UserError(f"{wanted}, and gives {described(result)}")
    return width


@torch.no_grad()
def check_rows(what: str, module: nn.Module, like: Tensor) -> None:
    """What a module of the user's own makes of a row depends neither on other rows nor on chance.

    Args:
        what: its kind and name.
        module: as `width_of` has found it to fit.
        like: (M, ...) what it takes, of which only the shape and the type count.

    Raises:
        UserError: it does, or the module fails on a single row.
    """
    if type(module) in _BUILT_IN:
        return
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def run(rows: Tensor) -> Any:  # leaves buffers that the module changes as they were
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of statistics of a single row
            return torch.func.functional_call(module, buffers, (rows,))

    width_of(what, run, like[:1])
    results = _tried(run, like)
    if results is None:
        return
    together, again, alone = results
    if not _same(together, again):
        raise UserError(
            f"{what} makes something else of the same rows when they come again: leave out what is random or "
            "remembers (dropout, running statistics)"
        )
    if not _same(together, alone):
        raise UserError(
            f"{what} lets rows influence each other: what it makes of one must depend on that one alone; "
            "leave out statistics of a batch, and layers that take (M, F) for a sequence (LSTM, GRU)"
        )


def described(value: Any) -> str:
    """What a function of the user's own returned, in a few words."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else f"a Python object of type {type(value).__name__}"


def _tried(module: Callable[[Tensor], Any], like: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """What it makes of random rows together, of the same again, and of each alone; None where it fails."""
    generator = torch.Generator().manual_seed(0)
    for values in (256, 2) if like.dtype == torch.uint8 else (2,):
        rows = torch.randint(values, (_ROWS, *like.shape[1:]), generator=generator).to(like.dtype)
        # It need not take values that its observations never have: they may be indices, say.
        with contextlib.suppress(Exception):
            return module(rows), module(rows), torch.cat([module(row) for row in torch.split(rows, 1)])
    return None


def _same(x: Tensor, y: Tensor) -> bool:
    largest = max(x.nan_to_num(0, 0, 0).abs().flatten().tolist(), default=0.0)
    return torch.allclose(x, y, rtol=0, atol=_ROUNDING * largest, equal_nan=True)


def _check_layers(what: str, module: nn.Module) -> None:
    for path, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) or (isinstance(layer, _DropoutNd) and layer.p > 0):
            named = f"{path} ({type(layer).__name__})" if path else type(layer).__name__
            raise UserError(
                f"{what} has the layer {named}, whose output is no function of one observation alone: "
                "leave it out (LayerNorm can be used)"
            )
