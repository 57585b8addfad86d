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


class RunningEpisodes:
    """Adds up raw rewards of ``num_envs`` environments, step by step."""

    def __init__(self, num_envs: int) -> None:
        self._return = np.zeros(num_envs)
        self.length = np.zeros(num_envs, dtype=np.int64)  # (N,) so far

    def add(self, reward: np.ndarray, valid: np.ndarray, over: np.ndarray) -> list[Episode]:
        """The episodes that ended with a step, by environment.

        Args:
            reward: (N,) raw.
            valid: (N,) bool: it was a transition.
            over: (N,) bool: an episode ended with it.
        """
        self._return += np.where(valid, reward, 0.0)
        self.length += valid
        ended = [
            Episode(int(i), float(self._return[i]), int(self.length[i])) for i in np.flatnonzero(over & valid)
        ]
        for env, _, _ in ended:
            self._return[env] = 0.0
            self.length[env] = 0
        return ended


class EpisodeTracker:
    """Episodes of rollout after rollout, with means over the last ones.

    Args:
        num_envs: N, of this rank.
        window: how many of the last episodes the means are over.
    """

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self._num_envs = num_envs
        self.recent: deque[Episode] = deque(maxlen=window)
        self.abandon()

    def track(self, rollout: Rollout, ranks: Ranks = ALONE) -> list[Episode]:
        """Count the rollout's transitions and return the episodes that ended in it, in order.

        Those of every rank, one rank's after the other's, each with N environments.
        """
        steps = (rollout.reward.cpu().numpy(), rollout.valid.cpu().numpy(), rollout.over.cpu().numpy())
        first = ranks.rank * self._num_envs
        finished = [
            episode._replace(env=first + episode.env)
            for step in zip(*steps, strict=True)
            for episode in self._running.add(*step)
        ]
        everyones = [episode for of_rank in ranks.everyones(finished) for episode in of_rank]
        self.recent.extend(everyones)
        return everyones

    def abandon(self) -> None:
        """Forget the episodes that are under way: their environments begin anew."""
        self._running = RunningEpisodes(self._num_envs)

    def means(self) -> dict[str, float]:
        """Mean return and length of the recent episodes; NaN before the first has ended."""
        if not self.recent:
            return {"episode_return_mean": float("nan"), "episode_length_mean": float("nan")}
        return {
            "episode_return_mean": float(np.mean([e.episode_return for e in self.recent])),
            "episode_length_mean": float(np.mean([e.length for e in self.recent])),
        }
