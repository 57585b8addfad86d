"""The rule that is the same for all: what a run is to reach, and when it is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

WINDOW = 100  # training episodes that a return is the mean of, at most
FEWEST = 10  # finished episodes before there is a return


@dataclass(frozen=True)
class Race:
    """What one run is to do."""

    env: str
    seed: int
    threshold: float  # of the mean raw return of the last training episodes
    total_steps: int  # environment steps, over which schedules run
    limit_seconds: float


@dataclass(frozen=True)
class Result:
    """How one run went, up to the end of the iteration in which it was over."""

    reached: bool
    seconds: float
    cpu_seconds: float  # of all its threads, and of the compilers that it called
    env_steps: int
    best_return: float | None  # None: fewer than `FEWEST` episodes have ended


class Watch:
    """Starts when it is made, and is asked at the end of every iteration, a rollout and its update.

    Args:
        race: the rule.
        clock: seconds.
    """

    def __init__(self, race: Race, clock: Callable[[], float] = time.perf_counter) -> None:
        self._race = race
        self._clock = clock
        self._started = clock()
        self._cpu_started = _cpu_seconds()
        self._best: float | None = None
        self._result: Result | None = None

    def iteration_ended(self, env_steps: int, returns: Collection[float]) -> bool:
        """Whether the race is over; once it is, nothing changes any more.

        Args:
            env_steps: since the start.
            returns: raw, of the last finished training episodes, `WINDOW` of them at most.
        """
        if self._result is not None:
            return True
        seconds = self._clock() - self._started
        mean = sum(returns) / len(returns) if len(returns) >= FEWEST else None
        if mean is not None:
            self._best = mean if self._best is None else max(self._best, mean)
        in_time = seconds <= self._race.limit_seconds
        reached = mean is not None and mean >= self._race.threshold and in_time
        if reached or not in_time or env_steps >= self._race.total_steps:
            cpu_seconds = _cpu_seconds() - self._cpu_started
            self._result = Result(reached, seconds, cpu_seconds, env_steps, self._best)
        return self._result is not None

    @property
    def result(self) -> Result:
        """How it went.

        Raises:
            RuntimeError: the race is not over.
        """
        if self._result is None:
            raise RuntimeError("training ended before the race was over")
        return self._result


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
