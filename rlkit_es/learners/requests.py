"""Work that is asked for, so that whoever carries it out may do that of several seeds at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from rlkit_es.learners.loops import Loop
from rlkit_es.learners.minibatch_step import StepInputs, StepState

_T = TypeVar("_T")


@dataclass(frozen=True)
class LoopCall:
    """A loop over minibatches, to be answered by what it returns (`Loop`)."""

    part: Literal["joint", "critic"]  # what it steps; calls of one part can be answered together
    loop: Loop
    state: StepState
    inputs: StepInputs
    index: Tensor  # (K, M)
    real: Tensor  # (K, M) bool
    first: int
    count: int

    @torch.no_grad()
    def alone(self) -> tuple[int, StepState]:
        """The answer, for one seed."""
        return self.loop(self.state, self.inputs, self.index, self.real, self.first, self.count)


class Turn(NamedTuple):
    """An iteration is about to begin, to be answered by the time at which it does, in seconds."""

    iteration: int

    def alone(self) -> float:
        """The answer, for one seed: now."""
        return time.perf_counter()


Request = LoopCall | Turn
Requests = Generator[Request, Any, _T]


def carried_out(requests: Requests[_T]) -> _T:
    """What ``requests`` return, each having been answered at once."""
    with contextlib.closing(requests):
        try:
            request = next(requests)
            while True:
                request = requests.send(request.alone())
        except StopIteration as end:
            result: _T = end.value
            return result
