"""Recording what a GPU is told to do, so that one call tells it all of it again.

Networks here are small: a GPU is done with most kernels before the host has launched the next. A CUDA
graph launches hundreds of them at once. What is recorded always reads and writes the same memory, has
static shapes and never asks the host for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rlkit_es.errors import UserError, first_line

Replay = Callable[[], Any]
# Of what is to be recorded, which takes nothing and returns tensors; it may be run several times. The
# replay returns the same tensors each time, with new values.
Record = Callable[[Callable[[], Any]], Replay]

_WARM_UP = 3  # runs in which libraries choose and allocate what may not be allocated in a recording


def recorder(device: torch.device) -> Record | None:
    """How to record on ``device``; None where that is not possible, or gains nothing."""
    return cuda_graph if device.type == "cuda" else None


def cuda_graph(run: Callable[[], Any]) -> Replay:
    """Record ``run`` as a CUDA graph.

    Raises:
        UserError: it does what a graph cannot hold, as a function of the user's own may.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            results = run()
    except RuntimeError as error:
        raise UserError(f"this cannot be a CUDA graph ({first_line(error)}): use --compile off") from error

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
