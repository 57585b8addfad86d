"""Recording what a GPU is told to do, so that one call tells it all of it again.

Networks here are small: a GPU is done with most kernels before the host has launched the next. A CUDA
graph launches hundreds of them at once. What is recorded always reads and writes the same memory, has
static shapes and never asks the host for anything.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rlkit_es.errors import CompilationError, first_line

Replay = Callable[[], Any]
# Of what is to be recorded, which takes nothing and returns tensors; it may be run several times. The
# replay returns the same tensors each time, with new values.
Record = Callable[[Callable[[], Any]], Replay]

_WARM_UP = 3  # runs in which libraries choose and allocate what may not be allocated in a recording


def recorder(device: torch.device, *, required: bool = True) -> Record | None:
    """How to record on ``device``, as of `cuda_graph`; None where that is not possible, or gains nothing."""
    if device.type != "cuda":
        return None
    return functools.partial(cuda_graph, device=device, required=required)


def cuda_graph(run: Callable[[], Any], device: torch.device, *, required: bool = True) -> Replay:
    """Record ``run``, all of it on ``device``, as a CUDA graph.

    Where it does what a graph cannot hold, as a function of the user's own may, and no recording is
    ``required``, the replay is ``run`` itself, with a warning.

    Raises:
        CompilationError: it does, and one is.
    """
    # On the very device: torch's own default is that of the current one.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            results = run()
    except RuntimeError as error:
        # Ending a recording that went wrong raises too; what went wrong came before.
        reason = f"this cannot be a CUDA graph ({first_line(error.__context__ or error)}); use --compile off"
        if required:
            raise CompilationError(reason) from error
        warnings.warn(f"{reason}, or leave it at this slower, eager way", RuntimeWarning, stacklevel=2)
        return run

    def replay() -> Any:
        graph.replay()
        return results

    return replay


class Recorded:
    """A function of tensors, recorded at its first call for each combination of shapes.

    What it closes over is read where it lies at the first call.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], record: Record) -> None:
        self._function = function
        self._record = record
        self._recordings: dict[tuple[torch.Size, ...], tuple[tuple[Tensor, ...], Replay]] = {}

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in given)
        if shapes not in self._recordings:
            places = tuple(map(torch.clone, given))
            self._recordings[shapes] = places, self._record(lambda: self._function(*places))
        places, replay = self._recordings[shapes]
        copy_tree(given, places)
        return tuple(map(torch.clone, replay()))


def copy_tree(source: Any, places: Any) -> None:
    """Each tensor of a tree into that at its place in another."""
    for new, place in zip(pytree.tree_leaves(source), pytree.tree_leaves(places), strict=True):
        place.copy_(new, non_blocking=True)
