"""Running a minibatch step over the minibatches of an epoch: in Python, compiled, or recorded.

A step of a small network takes less time than the Python and dispatcher work around it. The loop that
is compiled for a CPU has none: an epoch is one call, and the early stop is its exit condition. What is
recorded for a GPU has one launch for each minibatch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rlkit_es.errors import CompilationError
from rlkit_es.learners.minibatch_step import StepInputs, StepState
from rlkit_es.learners.native_loop import native_loop
from rlkit_es.learners.recording import Record, Replay, copy_tree, recorder

Step = Callable[[StepState, StepInputs, Tensor, Tensor], StepState]
_Run = Callable[[StepState, StepInputs, Tensor, Tensor, int, int], tuple[int, StepState]]  # as of `Loop`


class Loop(Protocol):
    """Steps through minibatches ``first`` to ``count - 1``, or until ``state.going`` is false."""

    step: Step
    watch: bool  # whether it ends where ``state.going`` is false

    def over(self, step: Any) -> Any:
        """A loop of the same kind over another step, whose state need be no `StepState` but has ``going``."""
        ...

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        """Run.

        Args:
            state: where to start from; left as it is.
            inputs: what every step is given.
            index: (K, M) samples of each minibatch, K >= ``count``.
            real: (K, M) bool.
            first: number of the first minibatch.
            count: how many minibatches there are.

        Returns:
            the number of the minibatch that would come next, and the state after the last one.
        """
        ...


class PythonLoop:
    """Eager. Without ``watch``, ``state.going`` is never looked at, so that the host never waits."""

    def __init__(self, step: Step, *, watch: bool) -> None:
        self.step = step
        self.watch = watch

    def over(self, step: Any) -> Self:
        return type(self)(step, watch=self.watch)

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        at = first
        while at < count and (not self.watch or state.going):
            state = self.step(state, inputs, index[at], real[at])
            at += 1
        return at, state


class CompiledLoop:
    """Native, on the CPU; compiled for the shapes of its first call, which never change.

    Args:
        step: of each minibatch.
        required: False goes on in Python, with a warning, where it cannot be compiled.
    """

    watch = True

    def __init__(self, step: Step, *, required: bool = True) -> None:
        self.step = step
        self._required = required
        self._run: _Run | None = None

    def over(self, step: Any) -> Self:
        return type(self)(step, required=self._required)

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        if self._run is None:
            self._run = self._compiled(state, inputs, index, real)
        return self._run(state, inputs, index, real, first, count)

    def _compiled(self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor) -> _Run:
        flat_state, state_spec = pytree.tree_flatten(state)
        flat_inputs, inputs_spec = pytree.tree_flatten(inputs)

        def flat_step(*flat: Tensor) -> list[Tensor]:
            *state_and_inputs, index_row, real_row = flat
            state = pytree.tree_unflatten(state_and_inputs[: len(flat_state)], state_spec)
            inputs = pytree.tree_unflatten(state_and_inputs[len(flat_state) :], inputs_spec)
            return pytree.tree_leaves(self.step(state, inputs, index_row, real_row))

        try:
            loop = native_loop(flat_step, flat_state, flat_inputs, index, real)
        except CompilationError as error:
            if self._required:
                raise
            warnings.warn(f"{error}, or leave it at this slower, eager update", RuntimeWarning, stacklevel=2)
            return PythonLoop(self.step, watch=self.watch)

        def run(
            state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
        ) -> tuple[int, StepState]:
            numbers = torch.tensor(first), torch.tensor(count)
            flat = *pytree.tree_leaves(state), *pytree.tree_leaves(inputs)
            at, *after = loop(*numbers, *flat, index, real)
            return int(at), pytree.tree_unflatten(after, state_spec)

        return run


class RecordedLoop:
    """A loop over minibatches whose step is recorded: a minibatch is one launch, and the host never waits.

    Which minibatch comes next is counted on the device, and a stop is a flag there: what comes after it
    changes nothing.
    """

    watch = False

    def __init__(self, step: Step, record: Record) -> None:
        self.step = step
        self._record = record
        self._replay: Replay | None = None

    def over(self, step: Any) -> Self:
        return type(self)(step, self._record)

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        given = (state, inputs, index, real)
        if self._replay is None:
            self._places = pytree.tree_map(torch.clone, given)
            self._at = torch.zeros(1, dtype=torch.int64, device=index.device)
            self._replay = self._record(self._advance)
        copy_tree(given, self._places)
        self._at.fill_(first)
        for _ in range(first, count):
            self._replay()
        return max(first, count), pytree.tree_map(torch.clone, self._places[0])

    def _advance(self) -> None:
        state, inputs, index, real = self._places
        row, own = (of_each.index_select(0, self._at).squeeze(0) for of_each in (index, real))
        copy_tree(self.step(state, inputs, row, own), state)
        # A warm-up goes over the same minibatches again and again, and never beyond the last.
        self._at.add_(1).remainder_(len(index))


def fast_loop(step: Step, device: torch.device, *, required: bool = True) -> Loop:
    """The loop that is compiled for a CPU, as of `CompiledLoop`, and recorded for a GPU."""
    record = recorder(device, required=required)
    return CompiledLoop(step, required=required) if record is None else RecordedLoop(step, record)
