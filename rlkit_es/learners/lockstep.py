"""Several seeds carried out together: their iterations side by side, their loops as one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from rlkit_es.errors import NonFiniteError
from rlkit_es.learners.requests import LoopCall, Request, Requests, Turn
from rlkit_es.learners.seeds_loop import SeedsLoop

_T = TypeVar("_T")


class Lockstep(Generic[_T]):
    """Carries out the requests of S seeds; each returns what it would if it were carried out alone.

    No seed begins an iteration before the others have ended the ones before it, so that one which is
    ahead, after a run went on from checkpoints, waits.

    Args:
        seeds: the requests of each; of one configuration but for the seed.
    """

    def __init__(self, seeds: Sequence[Requests[_T]]) -> None:
        self._seeds = seeds
        self._pending: dict[int, Request] = {}
        self._loops: dict[str, SeedsLoop] = {}
        self._results: dict[int, _T] = {}
        self.failures: dict[int, NonFiniteError] = {}
        """Seeds that came to numbers which are not finite, and ended there; the others went on."""

    def run(self) -> dict[int, _T]:
        """What each seed returned, but for those that failed; raises whatever else one of them does."""
        with contextlib.ExitStack() as stack:
            for requests in self._seeds:
                stack.enter_context(contextlib.closing(requests))
            for seed in range(len(self._seeds)):
                self._advance(seed, None)
            while self._pending:
                calling = self._answer("joint") | self._answer("critic")
                if not calling:
                    self._begin_iteration()
        return self._results

    def _answer(self, part: str) -> bool:
        """Carry out all calls for that part of the update; whether there were any."""
        calls = {
            seed: request
            for seed, request in self._pending.items()
            if isinstance(request, LoopCall) and request.part == part
        }
        if not calls:
            return False
        if part not in self._loops:
            self._loops[part] = SeedsLoop(len(self._seeds), next(iter(calls.values())))
        for seed, answer in self._loops[part](calls).items():
            self._advance(seed, answer)
        return True

    def _begin_iteration(self) -> None:
        """Of the seeds that are not ahead of others; every one that is left waits for its turn."""
        turns = {seed: turn for seed, turn in self._pending.items() if isinstance(turn, Turn)}
        first, now = min(turn.iteration for turn in turns.values()), time.perf_counter()
        for seed, turn in turns.items():
            if turn.iteration == first:
                self._advance(seed, now)

    def _advance(self, seed: int, answer: Any) -> None:
        """To its next request, or to its end."""
        self._pending.pop(seed, None)
        try:
            self._pending[seed] = self._seeds[seed].send(answer)
        except StopIteration as end:
            self._results[seed] = end.value
        except NonFiniteError as error:
            self.failures[seed] = error
