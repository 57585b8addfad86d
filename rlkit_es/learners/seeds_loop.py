"""A loop over the minibatches of several seeds at once: their states stacked, the same step vmapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rlkit_es.errors import UserError, first_line
from rlkit_es.learners.loops import Step
from rlkit_es.learners.minibatch_step import StepInputs, StepState
from rlkit_es.learners.requests import LoopCall


class SeedsState(NamedTuple):
    """What a minibatch step of S seeds takes and returns."""

    going: Tensor  # () bool: the policy of some seed has not stopped
    taken: Tensor  # (S,) int64 minibatches that each seed has stepped through
    each: StepState  # (S, ...) of each seed


class SeedsLoop:
    """Answers the calls of up to ``seeds`` seeds for one part of the update.

    It always computes for all of them, so that what becomes of one does not depend on which others call.

    Args:
        seeds: S.
        example: a call of one seed. The loop is of the same kind as its, eager or compiled.
    """

    def __init__(self, seeds: int, example: LoopCall) -> None:
        self.seeds = seeds
        self._watch = example.loop.watch
        self._loop = example.loop.over(_of_all(example.loop.step, watch=self._watch))

    @torch.no_grad()
    def __call__(self, calls: Mapping[int, LoopCall]) -> dict[int, tuple[int, StepState]]:
        """The answer to each call.

        Args:
            calls: by number of the seed, 0 to S - 1; at least one.

        Raises:
            UserError: a function of the user's own cannot be vmapped, or there is too little memory.
        """
        somebody = next(iter(calls.values()))
        stopped = somebody.state._replace(going=torch.zeros_like(somebody.state.going))
        absent = dataclasses.replace(somebody, state=stopped, count=0)
        rows = [calls.get(seed, absent) for seed in range(self.seeds)]
        each: StepState = _stack([call.state for call in rows])
        inputs: StepInputs = _stack([call.inputs for call in rows])
        index = torch.stack([call.index for call in rows], dim=1)  # (K, S, M)
        real = torch.stack([_called_for(call) for call in rows], dim=1)
        first, count = min(call.first for call in calls.values()), max(call.count for call in rows)
        taken = torch.zeros(self.seeds, dtype=torch.int64, device=index.device)
        state = SeedsState(each.going.any(), taken, each)
        try:
            _, state = self._loop(state, inputs, index, real, first, count)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise UserError(
                f"the update cannot be vmapped over seeds ({first_line(error)}): train them one by one"
            ) from error
        ended = state.taken.tolist() if self._watch else [call.count - call.first for call in rows]
        return {
            seed: (call.first + ended[seed], pytree.tree_map(itemgetter(seed), state.each))
            for seed, call in calls.items()
        }


def _of_all(step: Step, *, watch: bool) -> Any:
    """``step`` for all seeds; who has no minibatch, or has stopped and is watched, stays the same."""

    def of_one(state: StepState, inputs: StepInputs, index: Tensor, real: Tensor) -> tuple[StepState, Tensor]:
        on = real.any()
        if watch:
            on = on & state.going
        inputs = inputs._replace(critic_on=inputs.critic_on & on)
        after = step(state._replace(going=state.going & on), inputs, index, real)
        return after._replace(going=torch.where(on, after.going, state.going)), on

    vmapped = torch.func.vmap(of_one)

    def of_all(state: SeedsState, inputs: StepInputs, index: Tensor, real: Tensor) -> SeedsState:
        each, on = vmapped(state.each, inputs, index, real)
        return SeedsState(each.going.any(), state.taken + on, each)

    return of_all


def _stack(trees: list[Any]) -> Any:
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def _called_for(call: LoopCall) -> Tensor:
    """(K, M) bool: what is real of the minibatches that the call is for."""
    row = torch.arange(len(call.real), device=call.real.device)[:, None]
    return call.real & (row >= call.first) & (row < call.count)
