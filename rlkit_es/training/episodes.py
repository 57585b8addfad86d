"""Raw returns and lengths of the episodes that a rollout finished."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Rollout


class Episode(NamedTuple):
    """One finished episode."""

    env: int
    episode_return: float  # sum of raw rewards
    length: int  # transitions


class EpisodeTracker:
    """Adds up raw rewards per environment, across rollouts.

    Args:
        num_envs: N, of this rank.
        window: how many of the last episodes the means are over.
    """

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, dtype=np.int64)
        self.recent: deque[Episode] = deque(maxlen=window)

    def track(self, rollout: Rollout, ranks: Ranks = ALONE) -> list[Episode]:
        """Count the rollout's transitions and return the episodes that ended in it, in order.

        Those of every rank, one rank's after the other's, each with N environments.
        """
        valid = rollout.valid.cpu().numpy()
        reward = np.where(valid, rollout.reward.cpu().numpy(), 0.0)
        done = rollout.over.cpu().numpy() & valid
        finished: list[Episode] = []
        for t in range(len(reward)):
            self._return += reward[t]
            self._length += valid[t]
            for env in np.flatnonzero(done[t]):
                number = ranks.rank * len(self._return) + int(env)
                finished.append(Episode(number, float(self._return[env]), int(self._length[env])))
                self._return[env] = 0.0
                self._length[env] = 0
        everyones = [episode for of_rank in ranks.everyones(finished) for episode in of_rank]
        self.recent.extend(everyones)
        return everyones

    def abandon(self) -> None:
        """Forget the episodes that are under way: their environments begin anew."""
        self._return[:] = 0.0
        self._length[:] = 0

    def means(self) -> dict[str, float]:
        """Mean return and length of the recent episodes; NaN before the first has ended."""
        if not self.recent:
            return {"episode_return_mean": float("nan"), "episode_length_mean": float("nan")}
        return {
            "episode_return_mean": float(np.mean([e.episode_return for e in self.recent])),
            "episode_length_mean": float(np.mean([e.length for e in self.recent])),
        }
